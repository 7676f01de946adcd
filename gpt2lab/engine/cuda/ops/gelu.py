"""GELU by tanh, its bias added on the way, and its gradient: cuda/gelu.cu."""

import math

from gpt2lab.engine.cuda.device import Array, Device, Module
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.bias import ROWS_PER_THREAD, THREADS, ceil_div, row_blocks

PACKS_PER_THREAD = 2  # as in gelu.cu


class Gelu:
    """gelu of rows of `n` values, whose bias begins at a multiple of `aligned_to` values."""

    def __init__(self, device: Device, numerics: Numerics, *, n: int, aligned_to: int | None = None) -> None:
        self._pack = numerics.pack(math.gcd(n, aligned_to or n))
        self._module: Module = device.compile("gelu.cu", numerics.defines | {"VEC": self._pack})

    def forward(self, *, out: Array, pre: Array, bias: Array) -> None:
        """pre (rows,N) act_t += bias (N) float, in place; out (rows,N) act_t = gelu(pre)."""
        rows, n = pre.shape
        lanes, blocks_per_row = row_blocks(n // self._pack)
        grid = blocks_per_row * ceil_div(rows, THREADS // lanes * ROWS_PER_THREAD)
        self._module.launch(
            "bias_gelu_forward", grid, THREADS, out=out, pre=pre, bias=bias, rows=rows, n=n, lanes=lanes
        )

    def backward(self, *, gradient: Array, pre: Array) -> None:
        """gradient (rows,N) act_t *= gelu'(pre (rows,N) act_t), in place."""
        rows, n = pre.shape
        packs = rows * n // self._pack
        grid = ceil_div(packs, THREADS * PACKS_PER_THREAD)
        self._module.launch("gelu_backward", grid, THREADS, gradient=gradient, pre=pre, packs=packs)
