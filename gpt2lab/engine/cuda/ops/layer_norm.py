"""Layer norm, alone or behind a residual addition: cuda/layer_norm.cu."""

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.errors import EngineError

_THREADS = constant("layer_norm.cu", "THREADS")
_WARP = constant("layer_norm.cu", "WARP")
_COLUMNS = constant("layer_norm.cu", "COLUMNS")  # of a block that adds partial sums up
_COLUMN_GROUPS = constant("layer_norm.cu", "COLUMN_GROUPS")
_MAX_WARPS_PER_ROW = _THREADS // _WARP
_MAX_VALUES = 32  # of a row that one thread keeps; more would spill in the backward kernel
MAX_N_EMBD = _THREADS * _MAX_VALUES


class LayerNorm:
    """out = (x - mean) * rstd * weight + bias over the channels of each row.

    x, residual, branch, sum, out, dout, dres (rows, C) act, in any shape of that size; mean, rstd (rows,) float;
    weight, bias (C,) float. Raises EngineError when C is above MAX_N_EMBD.
    """

    def __init__(self, device: Device, numerics: Numerics, *, n_embd: int) -> None:
        vec, warps, packs = _layout(numerics, n_embd)
        self._numerics, self._n_embd = numerics, n_embd
        self._rows_per_block = _MAX_WARPS_PER_ROW // warps
        defines = {"VEC": vec, "WARPS_PER_ROW": warps, "PACKS": packs}
        self._module = device.compile("layer_norm.cu", numerics.defines | defines)

    def forward(self, **arrays: Array) -> None:
        """Write out, mean and rstd, of x with weight and bias."""
        self._forward("layer_norm_forward", **arrays)

    def residual_forward(self, **arrays: Array) -> None:
        """Write sum = residual + branch, and out, mean and rstd of the sum as it is stored, with weight and bias."""
        self._forward("residual_layer_norm_forward", **arrays)

    def _forward(self, kernel: str, *, mean: Array, **arrays: Array) -> None:
        grid = -(-mean.size // self._rows_per_block)
        self._module.launch(kernel, grid, _THREADS, mean=mean, rows=mean.size, C=self._n_embd, **arrays)

    def backward(self, *, dweight: Array, dbias: Array, mean: Array, partials: Array, **arrays: Array) -> None:
        """Add the gradient of x to dres, and those of weight and bias to dweight and dbias.

        From dout, x, weight, mean and rstd. partials: scratch of at least `partials_size(rows)` float.
        """
        rows, C = mean.size, self._n_embd
        n = partials_size(self._numerics, rows, C) // (2 * C)
        shared = {"partials": partials, "C": C}
        self._module.launch("layer_norm_backward", n, _THREADS, mean=mean, rows=rows, **arrays, **shared)
        grid, block = -(-2 * C // _COLUMNS), (_COLUMNS, _COLUMN_GROUPS)
        sums = {"dweight": dweight, "dbias": dbias, "n_partials": n}
        self._module.launch("layer_norm_backward_finish", grid, block, **sums, **shared)


def partials_size(numerics: Numerics, rows: int, n_embd: int) -> int:
    """Return how many floats `LayerNorm.backward` needs as `partials` for that many rows: (blocks, 2, C)."""
    vec, warps, packs = _layout(numerics, n_embd)
    # What runs at a time on some 130 multiprocessors; a thread's registers grow with its part of the row.
    most = min(1024, 8192 // (packs * vec))
    return min(most, -(-rows // (_MAX_WARPS_PER_ROW // warps))) * 2 * n_embd


def _layout(numerics: Numerics, n_embd: int) -> tuple[int, int, int]:
    """Return values per pack, warps per row, and packs per thread. Raises EngineError for rows that are too long."""
    if n_embd > MAX_N_EMBD:
        raise EngineError(
            f"model.n_embd={n_embd}: the layer norm of engine=cuda takes up to {MAX_N_EMBD} channels; "
            "choose fewer, or engine=torch"
        )
    vec, warps = numerics.pack(n_embd), 1
    while vec > 1 and vec * _WARP > n_embd:  # a narrow row is to occupy every lane of its warp
        vec //= 2
    while -(-n_embd // (warps * _WARP * vec)) * vec > _MAX_VALUES:
        warps *= 2
    return vec, warps, -(-n_embd // (warps * _WARP * vec))
