"""Adding a bias to rows, and the sum over rows that is its gradient: cuda/bias.cu."""

import math

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics

_THREADS = constant("bias.cu", "THREADS")
_ROWS_PER_THREAD = constant("bias.cu", "ROWS_PER_THREAD")
_WARP = constant("bias.cu", "WARP")

# dbias is summed in chunks of rows: as many as keep a card busy, but not so many that adding them up takes long.
MIN_ROWS_PER_CHUNK = 64
MAX_CHUNKS = 256


class Bias:
    """The bias of rows of `n` values, which begins anywhere in memory that is a multiple of `aligned_to` values.

    Rows may be wider: `first_column` then says where in them the n values begin.
    """

    def __init__(self, device: Device, numerics: Numerics, *, n: int, aligned_to: int | None = None) -> None:
        self._n, self._pack = n, numerics.pack(math.gcd(n, aligned_to or n))
        self._module = device.compile("bias.cu", numerics.defines | {"VEC": self._pack})

    def forward(self, *, x: Array, bias: Array, first_column: int = 0) -> None:
        """x (rows,N) act_t += bias (N) float, in place."""
        (rows, stride), n = x.shape, self._n
        lanes, blocks_per_row = row_blocks(n // self._pack)
        grid = blocks_per_row * ceil_div(rows, _THREADS // lanes * _ROWS_PER_THREAD)
        x = self._columns(x, first_column)
        self._module.launch("bias_forward", grid, _THREADS, x=x, bias=bias, rows=rows, n=n, stride=stride, lanes=lanes)

    def backward(self, *, dbias: Array, dy: Array, partials: Array, first_column: int = 0) -> None:
        """dbias (N) float += sum over rows of dy (rows,N) act_t; `partials` is scratch: partials_size floats."""
        (rows, stride), n = dy.shape, self._n
        lanes, blocks_per_row = row_blocks(n // self._pack)
        rows_per_chunk, chunks = row_chunks(rows)
        partials = partials[: chunks * n]
        assert partials.size == chunks * n, f"bias: scratch of {partials.size} float, {chunks * n} needed"
        shared = {"partials": partials, "n": n}
        sizes = {"rows": rows, "stride": stride, "lanes": lanes, "rows_per_chunk": rows_per_chunk}
        dy = self._columns(dy, first_column)
        self._module.launch("bias_backward_partial", blocks_per_row * chunks, _THREADS, dy=dy, **shared, **sizes)
        self._module.launch("bias_backward_sum", ceil_div(n, _WARP), _THREADS, dbias=dbias, chunks=chunks, **shared)

    def _columns(self, x: Array, first: int) -> Array:
        """Return x (rows, >= first + n) from its first row's column `first` on, flat."""
        assert first + self._n <= x.shape[1] and not (first % self._pack or x.shape[1] % self._pack)
        return x.reshape(-1)[first:]


def partials_size(rows: int, n: int) -> int:
    """Return how many floats of scratch are enough for `Bias.backward` with dy (rows,N), or with fewer rows.

    Chunks themselves may become more when rows become fewer: 20,000 rows make 254 of them, 16,380 rows 256.
    """
    return min(MAX_CHUNKS, ceil_div(rows, MIN_ROWS_PER_CHUNK)) * n


def row_chunks(rows: int) -> tuple[int, int]:
    """Return rows per chunk, and the number of chunks."""
    rows_per_chunk = max(MIN_ROWS_PER_CHUNK, ceil_div(rows, MAX_CHUNKS))
    return rows_per_chunk, ceil_div(rows, rows_per_chunk)


def row_blocks(packs: int) -> tuple[int, int]:
    """Return how many packs wide a block is (a power of two, a warp at most), and how many such blocks a row takes."""
    lanes = min(_WARP, 1 << (packs - 1).bit_length())
    return lanes, ceil_div(packs, lanes)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
