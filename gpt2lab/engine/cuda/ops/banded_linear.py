"""The products of a linear layer whose weight is banded: block by block along the band, all of one shape at once.

`BandedProducts` stands where `Linear` expects a Gemm. The weight stays dense in memory, with zeros outside its band:
each block is a part of it as it lies there (`model/band_tiles.py`), and what a block holds outside the band adds
nothing. Every kept weight is in a block. A batch has no epilogue, so bias and GELU are added by their kernels.

Of a gradient matrix only blocks are written. Outside the band it holds what blocks happen to add there, or zero;
gradient norm, AdamW and `loss_and_gradients` leave that out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

from gpt2lab.engine.cuda.device import Array
from gpt2lab.engine.cuda.device.base import address
from gpt2lab.engine.cuda.gemm import Epilogue, Gemm, Products
from gpt2lab.engine.cuda.gemm.base import ProductOptions, pointer_table_size
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.model.band_tiles import PRODUCTS, BandBlock, ProductTiles, channel_blocks, hidden_blocks
from gpt2lab.model.params import GPTConfig

ALIGNMENT = 16  # bytes between places where blocks begin: what tensor cores want of each operand of a batch
_EVERY = slice(None)

Index = tuple[slice, slice]


DENSE: ProductTiles = {name: dict.fromkeys(PRODUCTS) for name in ("fc1", "fc2")}


class PointerTables:
    """Hands out the parts of one array (n,) int64."""

    def __init__(self, array: Array | None) -> None:
        """Take None where nobody will ask for any."""
        self._array, self._used = array, 0

    def take(self, size: int) -> Array:
        """Return the next (size,) int64, which nobody else gets."""
        first, self._used = self._used, self._used + size
        assert self._array is not None, "pointer tables: none were planned"
        planned = self._array.shape[0]
        assert self._used <= planned, f"pointer tables: {self._used} entries, planned {planned}"
        return self._array[first : self._used]


class BandedProducts:
    """What `Linear` multiplies for matrix `name`: "fc1" (F,C) or "fc2" (C,F), of any layer.

    Addresses are uploaded at the first call with operands at these places; the calls after it can be captured.
    """

    def __init__(self, gemm: Gemm, tables: PointerTables, name: str, blocks: Mapping[str, Sequence[BandBlock]]) -> None:
        """Take the blocks of each product; one that is missing is dense."""
        self._gemm, self._tables = gemm, tables
        self._indices: dict[tuple[bool, bool], list[list[tuple[Index, Index, Index]]]] = {}
        for product in blocks:
            by_shape: dict[tuple[int, ...], list[tuple[Index, Index, Index]]] = {}
            for block in blocks[product]:
                by_shape.setdefault(block_shape(block), []).append(_indices(name, product, block))
            self._indices[TRANSPOSES[product]] = list(by_shape.values())
        self._table_parts: dict[tuple[object, ...], list[Array]] = {}
        self._calls: dict[tuple[object, ...], list[Callable[[], None]]] = {}

    def matmul(
        self, out: Array, a: Array, b: Array, epilogue: Epilogue | None = None, **options: Unpack[ProductOptions]
    ) -> bool:
        """Multiply as the layer's forward (x @ weight^T), input (dy @ weight) or weight product (dy^T @ x).

        Blocks take no epilogue.
        """
        form = (options.get("transpose_a", False), options.get("transpose_b", False))
        batches = self._indices.get(form)
        if batches is None:
            return self._gemm.matmul(out, a, b, epilogue, **options)
        if epilogue is not None:
            return False
        places = (*form, options.get("accumulate", False), *(address(x) for x in (out, a, b)))
        call = (*places, a.shape[0])  # the rows of activations, which every product's a has in front
        if call not in self._calls:
            if places not in self._table_parts:
                self._table_parts[places] = [self._tables.take(pointer_table_size(len(batch))) for batch in batches]
            self._calls[call] = []
            for batch, table in zip(batches, self._table_parts[places], strict=True):
                outs, lefts, rights = ([x[index[i]] for index in batch] for i, x in enumerate((out, a, b)))
                self._calls[call].append(self._gemm.prepare_pointers(outs, lefts, rights, table, **options))
        for multiply in self._calls[call]:
            multiply()
        return True


# transpose_a and transpose_b by which a product is known.
TRANSPOSES = {"forward": (False, True), "input": (False, False), "weight": (True, False)}


def _indices(name: str, product: str, block: BandBlock) -> tuple[Index, Index, Index]:
    """Return which part of out, a and b belongs to `block`."""
    outs, ins = (block.hidden, block.channels) if name == "fc1" else (block.channels, block.hidden)
    y, x, weight = (_EVERY, outs), (_EVERY, ins), (outs, ins)
    return {"forward": (y, x, weight), "input": (x, y, weight), "weight": (weight, y, x)}[product]


def product_blocks(name: str, product: str, *, n_embd: int, band: int, tile: int, align: int) -> list[BandBlock]:
    """Return the blocks of one product of matrix `name`; no two write the same place.

    Windows begin and end at multiples of `align` where that divides the matrix: they are wider then, by zeros. Weight
    gradients go by tiles of hidden units in both matrices: their blocks are nearer to squares.
    """
    assert band > 0, f"{name} has no band, so no blocks"
    if product == "weight" or (name == "fc1") == (product == "forward"):
        blocks = hidden_blocks(n_embd, band, tile)
        windows = _aligned([block.channels for block in blocks], n_embd, align)
        return [BandBlock(block.hidden, window) for block, window in zip(blocks, windows, strict=True)]
    blocks = channel_blocks(n_embd, band, max(1, tile // 4))
    windows = _aligned([block.hidden for block in blocks], 4 * n_embd, align)
    return [BandBlock(window, block.channels) for block, window in zip(blocks, windows, strict=True)]


def _aligned(windows: list[slice], end: int, align: int) -> list[slice]:
    """Return windows of one width that hold these, and begin and end at multiples of `align` where it divides `end`."""
    spans = [(w.start // align * align, min(-(-w.stop // align) * align, end)) for w in windows]
    width = max(last - first for first, last in spans)
    return [slice(first, first + width) for first in (min(first, end - width) for first, _ in spans)]


def block_shape(block: BandBlock) -> tuple[int, int]:
    """Return how many hidden units and channels a block has."""
    return block.hidden.stop - block.hidden.start, block.channels.stop - block.channels.start


def mlp_blocks(config: GPTConfig, numerics: Numerics, tiles: ProductTiles) -> dict[str, dict[str, list[BandBlock]]]:
    """Return {"fc1", "fc2": {product: its blocks}}, without the products that are dense."""
    align = alignment(numerics.act_dtype.itemsize)
    return {
        name: {
            product: product_blocks(name, product, n_embd=config.n_embd, band=band, tile=tile, align=align)
            for product, tile in tiles[name].items()
            if tile is not None
        }
        for name, band in config.bands.items()
    }


def mlp_products(
    gemm: Gemm, numerics: Numerics, config: GPTConfig, tiles: ProductTiles, table: Array | None
) -> dict[str, Products]:
    """Return what multiplies for "fc1" and "fc2": `gemm` itself where everything is dense.

    `table` is (pointer_tables_size,) int64, or None where nothing has blocks.
    """
    tables = PointerTables(table)
    blocks = mlp_blocks(config, numerics, tiles)
    return {name: BandedProducts(gemm, tables, name, blocks[name]) if blocks[name] else gemm for name in blocks}


def pointer_tables_size(config: GPTConfig, numerics: Numerics, tiles: ProductTiles) -> int:
    """Return how many int64 the products of all layers need; 0 where everything is dense."""
    n_blocks = sum(len(each) for blocks in mlp_blocks(config, numerics, tiles).values() for each in blocks.values())
    # One more: a pass may have arrays of its own for the last layer.
    return (config.n_layer + 1) * pointer_table_size(n_blocks)


def alignment(item_bytes: int) -> int:
    """Return how many values of an activation lie between places where a block may begin."""
    return ALIGNMENT // item_bytes
