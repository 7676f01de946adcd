"""The products of a banded MLP one by one: every tile size beside the dense product, right first and then timed.

The three products of FC1 and FC2 as a layer does them: y = x @ weight^T, dx = dy @ weight, dweight += dy^T @ x. Blocks
go as `BandedProducts` has them in a step. From these times follow what a batch costs by itself, and what its operations
cost by size of block: the constants of the cost model.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from proof import compare, tolerance

from gpt2lab.engine.cuda.bands import TILES
from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.gemm import Gemm, create_gemm
from gpt2lab.engine.cuda.gemm.base import pointer_table_size
from gpt2lab.engine.cuda.numerics import Numerics, from_bfloat16, to_bfloat16
from gpt2lab.engine.cuda.ops.banded_linear import (
    TRANSPOSES,
    BandedProducts,
    PointerTables,
    alignment,
    product_blocks,
)
from gpt2lab.errors import EngineError
from gpt2lab.model.band_tiles import PRODUCTS, BandBlock, block_multiply_adds
from gpt2lab.model.bands import band_mask, is_dense
from gpt2lab.schema import Precision
from gpu.clock import time_calls
from gpu.memory import empty, random_act, release


def measure_bands(
    device: Device, precision: Precision, *, rows: int, n_embd: int, bands: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """Yield error and time of each product, dense and with each tile. Raises EngineError where blocks are wrong."""
    numerics = Numerics.of(device, precision)
    gemm = create_gemm(device, precision)
    if gemm.workspace_bytes:
        gemm.set_workspace(device.empty(gemm.workspace_bytes))
    for band in bands:
        if is_dense(n_embd, band):
            continue
        for name in ("fc1", "fc2"):
            bench = _Bench(device, gemm, numerics, name, rows, n_embd, band)
            for product in PRODUCTS:
                for tile in (None, *(tile for tile in TILES if tile < 4 * n_embd)):
                    yield bench.measure(product, tile)
            del bench
            release()


class _Bench:
    """One banded matrix, "fc1" (F,C) or "fc2" (C,F), with activations on both sides of it."""

    def __init__(
        self, device: Device, gemm: Gemm, numerics: Numerics, name: str, rows: int, n_embd: int, band: int
    ) -> None:
        self.device, self.gemm, self.numerics = device, gemm, numerics
        self.name, self.rows, self.n_embd, self.band = name, rows, n_embd, band
        kept = band_mask(n_embd, band)
        self.kept = kept if name == "fc1" else kept.T
        values = np.random.default_rng(0).standard_normal(self.kept.shape, dtype=np.float32) * self.kept
        act = to_bfloat16(values) if numerics.act_dtype == np.uint16 else values.astype(numerics.act_dtype)
        self.weight = empty(device, act.shape, act.dtype)
        device.upload(self.weight, act)
        n_out, n_in = self.kept.shape
        self.x, self.dy = (random_act(device, numerics, rows, n) for n in (n_in, n_out))
        self.y, self.dx = (empty(device, (rows, n), numerics.act_dtype) for n in (n_out, n_in))
        self.dweight = empty(device, self.kept.shape, numerics.float_dtype)
        self.expected: dict[str, np.ndarray] = {}

    def measure(self, product: str, tile: int | None) -> dict[str, Any]:
        blocks = None if tile is None else self.blocks(product, tile)
        multiply = self.in_blocks(product, blocks) if blocks else self.dense(product)
        out = self.operands(product)[0]
        self.device.fill_zero(out)
        multiply()
        error = self.error(product, self.device.download(out))
        seconds = time_calls(self.device, lambda i: multiply())
        per_row = 4 * self.n_embd**2 if blocks is None else block_multiply_adds(blocks)
        flop = 2 * self.rows * per_row
        return {
            "product": f"{self.name} {product}",
            "precision": self.numerics.precision.name,
            "rows": self.rows,
            "n_embd": self.n_embd,
            "band": self.band,
            "tile": tile,
            "blocks": None if blocks is None else len(blocks),
            "error": error,
            "seconds": seconds,
            "flop": flop,
            "tflop_per_s": flop / seconds["median"] / 1e12,
        }

    def operands(self, product: str) -> tuple[Array, Array, Array]:
        """Return out, a and b."""
        return {
            "forward": (self.y, self.x, self.weight),
            "input": (self.dx, self.dy, self.weight),
            "weight": (self.dweight, self.dy, self.x),
        }[product]

    def options(self, product: str) -> dict[str, bool]:
        transpose_a, transpose_b = TRANSPOSES[product]
        return {"transpose_a": transpose_a, "transpose_b": transpose_b, "accumulate": product == "weight"}

    def dense(self, product: str) -> Callable[[], None]:
        operands, options = self.operands(product), self.options(product)
        return lambda: self.gemm.matmul(*operands, **options)

    def blocks(self, product: str, tile: int) -> list[BandBlock]:
        """Return the blocks of a product."""
        align = alignment(self.numerics.act_dtype.itemsize)
        return product_blocks(self.name, product, n_embd=self.n_embd, band=self.band, tile=tile, align=align)

    def in_blocks(self, product: str, blocks: list[BandBlock]) -> Callable[[], None]:
        """Return a function that multiplies block by block, as a step does."""
        table = empty(self.device, (pointer_table_size(len(blocks)),), np.int64)
        products = BandedProducts(self.gemm, PointerTables(table), self.name, {product: blocks})
        operands, options = self.operands(product), self.options(product)
        return lambda: products.matmul(*operands, **options)

    def error(self, product: str, found: np.ndarray) -> float:
        """Return how far a product is from the dense one, which comes first. Raises EngineError beyond rounding."""
        values = from_bfloat16(found) if found.dtype == np.uint16 else found
        if product == "weight":
            values = values * self.kept  # of the gradient, blocks write what they hold
        if product not in self.expected:
            self.expected[product] = values.astype(np.float64)
        precision = self.numerics.precision.name
        terms = self.rows if product == "weight" else max(self.kept.shape)
        # Both are rounded; tf32 rounds the operands as well, alike in both.
        store = "fp32" if product == "weight" or precision == "tf32" else precision
        compute = "tf32" if precision == "tf32" else "fp32"
        allowed = 2 * tolerance(terms=terms, compute=compute, store=store)
        check = compare(f"{self.name} {product}, band {self.band}", values, self.expected[product], allowed)
        if not check.passed:
            raise EngineError(f"banded products: {check}")
        return check.error
