"""What the first update of a run computes, and what bands, loss mask and shared prefixes leave out of it.

The same arithmetic for `gpt2lab plan`, before a run, and for the record of one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from gpt2lab.engine import EngineSpec
from gpt2lab.engine.cuda.bands import choose_mlp_tiles
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.banded_linear import alignment, product_blocks
from gpt2lab.engine.passes import Pass, PrefixTree, RowPass, planner_of
from gpt2lab.model.band_tiles import PRODUCTS, TORCH_COSTS, ProductTiles, block_multiply_adds, hidden_blocks, mlp_tiles
from gpt2lab.model.flops import Counts, plain_counts, training_flop
from gpt2lab.schema import EngineName


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One update: what its batch holds, what of it is computed, and the tiles of banded products."""

    positions: int  # of the batch: B * T
    counts: Counts  # summed over its passes
    passes: int
    trees: int  # of the passes: those whose rows are nodes of a tree
    flop_dense: int  # of the plain batch: all positions in all layers, dense products
    flop_done: int
    mlp_tiles: ProductTiles


def work_of(
    spec: EngineSpec, inputs: np.ndarray, targets: np.ndarray, *, device: str, tiles: ProductTiles | None = None
) -> Work:
    """Return the work of an update on one batch, (B, T) int32 each, on `device`, "cpu" or what an engine calls its own.

    `tiles` are those of the engine that does it; without, those that one would choose.
    """
    passes = planner_of(spec, device).passes(inputs, targets, spec.micro_batch_size or len(inputs))
    trees = sum(isinstance(each, PrefixTree) for each in passes)
    return _work(spec, inputs.shape, count_passes(passes), len(passes), trees, tiles or mlp_tiles_of(spec, device))


def unread_work(spec: EngineSpec, *, device: str) -> Work:
    """Return the work of an update on `spec.batch_size` rows that are not known, as if no two of them began alike."""
    T = spec.seq_len or spec.model.max_seq_len
    rows = replace(spec, engine=replace(spec.engine, share_prefixes=False))
    any_row = np.zeros((1, T), dtype=np.int32)
    counts = count_passes(planner_of(rows, device).passes(any_row, any_row, 1)).times(spec.batch_size)
    passes = -(-spec.batch_size // (spec.micro_batch_size or spec.batch_size))
    return _work(spec, (spec.batch_size, T), counts, passes, 0, mlp_tiles_of(spec, device))


def _work(
    spec: EngineSpec, shape: tuple[int, ...], counts: Counts, passes: int, trees: int, tiles: ProductTiles
) -> Work:
    model, (B, T) = spec.model, shape
    return Work(
        positions=B * T,
        counts=counts,
        passes=passes,
        trees=trees,
        flop_dense=training_flop(model, plain_counts(B, T)),
        flop_done=training_flop(
            model,
            counts,
            fc1_multiply_adds=_multiply_adds(spec, "fc1", tiles),
            fc2_multiply_adds=_multiply_adds(spec, "fc2", tiles),
        ),
        mlp_tiles=tiles,
    )


def mlp_tiles_of(spec: EngineSpec, device: str) -> ProductTiles:
    """Return how an engine of `spec` on `device` would cut the products of both MLP matrices."""
    if spec.engine.name is EngineName.cuda:
        return {name: asdict(tiles) for name, tiles in choose_mlp_tiles(spec).items()}
    chosen = mlp_tiles(spec.model, spec.rows, TORCH_COSTS.get(device), spec.engine.banded_products)
    return {name: dict.fromkeys(PRODUCTS, tile) for name, tile in chosen.items()}


def _multiply_adds(spec: EngineSpec, name: str, tiles: ProductTiles) -> int:
    """Return the multiply-adds for one row of the three products of one matrix, windows of blocks included."""
    C, band = spec.model.n_embd, spec.model.fc1_band if name == "fc1" else spec.model.fc2_band
    total = 0
    for product, tile in tiles[name].items():
        if tile is None:
            total += 4 * C * C
        elif spec.engine.name is EngineName.cuda:
            align = alignment(Numerics(spec.engine.precision, np.dtype(np.float32)).act_dtype.itemsize)
            total += block_multiply_adds(product_blocks(name, product, n_embd=C, band=band, tile=tile, align=align))
        else:
            total += block_multiply_adds(hidden_blocks(C, band, tile, clipped=True))
    return total


def count_passes(passes: Sequence[Pass]) -> Counts:
    """Return what passes compute, in all."""
    total = Counts(rows=0, last_rows=0, logit_rows=0, pairs=0, last_pairs=0)
    for each in passes:
        total += _count(each)
    return total


def _count(each: Pass) -> Counts:
    if isinstance(each, RowPass):
        B, T = each.tokens.shape
        if each.counted is None:
            return plain_counts(B, T)
        rows, pairs = B * T, B * T * (T + 1) // 2
        counted, seen = B * len(each.counted), B * int((each.counted + 1).sum())
    else:
        depths = each.positions.astype(np.int64) + 1  # keys that the query of a node sees
        rows, pairs = each.n_nodes, int(depths.sum())
        counted, seen = len(each.counted), int(depths[each.counted].sum())
    trims = each.trims_last
    return Counts(
        rows=rows,
        last_rows=counted if trims else rows,
        logit_rows=counted,
        pairs=pairs,
        last_pairs=seen if trims else pairs,
    )
