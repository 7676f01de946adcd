"""GELU by tanh, its bias added on the way, and its gradient: cuda/gelu.cu."""

import math

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.bias import ceil_div, row_blocks

_THREADS = constant("gelu.cu", "THREADS")
_ROWS_PER_THREAD = constant("gelu.cu", "ROWS_PER_THREAD")
_PACKS_PER_THREAD = constant("gelu.cu", "PACKS_PER_THREAD")


class Gelu:
    """gelu of rows of `n` values, whose bias begins at a multiple of `aligned_to` values."""

    def __init__(self, device: Device, numerics: Numerics, *, n: int, aligned_to: int | None = None) -> None:
        self._pack = numerics.pack(math.gcd(n, aligned_to or n))
        self._module = device.compile("gelu.cu", numerics.defines | {"VEC": self._pack})

    def forward(self, *, out: Array, pre: Array, bias: Array) -> None:
        """pre (rows,N) act_t += bias (N) float, in place; out (rows,N) act_t = gelu(pre)."""
        rows, n = pre.shape
        lanes, blocks_per_row = row_blocks(n // self._pack)
        grid = blocks_per_row * ceil_div(rows, _THREADS // lanes * _ROWS_PER_THREAD)
        self._module.launch(
            "bias_gelu_forward", grid, _THREADS, out=out, pre=pre, bias=bias, rows=rows, n=n, lanes=lanes
        )

    def backward(self, *, gradient: Array, pre: Array) -> None:
        """gradient (rows,N) act_t *= gelu'(pre (rows,N) act_t), in place."""
        rows, n = pre.shape
        packs = rows * n // self._pack
        grid = ceil_div(packs, _THREADS * _PACKS_PER_THREAD)
        self._module.launch("gelu_backward", grid, _THREADS, gradient=gradient, pre=pre, packs=packs)
