"""Cross entropy and the gradient of the logits: cuda/cross_entropy.cu."""

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics

_THREADS = constant("cross_entropy.cu", "THREADS")
_SUM_THREADS = constant("cross_entropy.cu", "SUM_THREADS")
_WARP = constant("cross_entropy.cu", "WARP")
_PACKS_PER_THREAD = 4  # at least, before another warp shares a row


class CrossEntropy:
    """losses[r] = log(sum_v exp(logits[r,v])) - logits[r,targets[r]] over the V real of Vp columns, in nats.

    logits (rows, Vp) act, whose padded columns may hold anything; losses (rows,) float; targets (rows,) int32.

    Where one row stands for several targets as in PrefixTree: targets (p,), distinct and ascending within a row,
    pair_begins (rows + 1,) and counts (p,), how often each is counted, all int32. Their losses are added up for each
    row; a row without a pair has loss 0 and gradient 0.
    """

    def __init__(self, device: Device, numerics: Numerics, *, vocab_size: int, padded_vocab_size: int) -> None:
        assert vocab_size < 2**24, "the number of a column is kept as a float"
        vec = numerics.pack(padded_vocab_size)
        warps = 1
        while warps * _WARP < _THREADS and padded_vocab_size > 2 * warps * _WARP * vec * _PACKS_PER_THREAD:
            warps *= 2
        self._rows_per_block = _THREADS // (warps * _WARP)
        self._columns = {"V": vocab_size, "Vp": padded_vocab_size}
        self._module = device.compile("cross_entropy.cu", numerics.defines | {"VEC": vec, "WARPS_PER_ROW": warps})

    def forward(self, **arrays: Array) -> None:
        """Write losses, and correct (rows,) int32: how many targets are the first of the largest logits."""
        self._launch("forward", **arrays)

    def backward(self, *, scale: float, **arrays: Array) -> None:
        """Write losses, and over the logits (softmax - onehot) * scale, for all targets of a row; 0 in padding."""
        self._launch("backward", **arrays, scale=scale)

    def add_losses(self, *, stats: Array, losses: Array, scale: float) -> None:
        """stats[0] += scale * sum(losses)."""
        self._module.launch("add_losses", 1, _SUM_THREADS, stats=stats, losses=losses, n_rows=losses.size, scale=scale)

    def _launch(self, direction: str, *, losses: Array, **arguments: Array | float) -> None:
        name = f"cross_entropy_{'pairs_' if 'pair_begins' in arguments else ''}{direction}"
        grid, rows = -(-losses.size // self._rows_per_block), {"losses": losses, "n_rows": losses.size}
        self._module.launch(name, grid, _THREADS, **rows, **arguments, **self._columns)
