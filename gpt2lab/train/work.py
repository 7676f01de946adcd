"""What the first update of a run computes, and what bands, loss mask and shared prefixes leave out of it.

The same arithmetic for `gpt2lab plan`, before a run, and for the record of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.passes import Pass, PassPlanner, RowPass
from gpt2lab.model.band_tiles import Cost, block_multiply_adds, hidden_blocks, mlp_tiles
from gpt2lab.model.flops import Counts, plain_counts, training_flop

Tiles = dict[str, dict[str, int | None]]  # {matrix: {product: hidden units of a block; None: a dense product}}

PRODUCTS = ("forward", "input", "weight")  # of an MLP matrix: itself, the gradients of its input and of its weight
CPU_COST = Cost(call_s=2.0e-5, multiply_add_s=1.6e-11, value_s=3.7e-10)  # float32 products of PyTorch, fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One update: what its batch holds, what of it is computed, and the tiles of banded products."""

    positions: int  # of the batch: B * T
    counts: Counts  # summed over its passes
    shares: bool  # whether rows of a pass are nodes of a tree
    flop_dense: int  # of the plain batch: all positions in all layers, dense products
    flop_done: int
    mlp_tiles: Tiles  # of "fc1" and "fc2"


def work_of(spec: EngineSpec, inputs: np.ndarray, targets: np.ndarray) -> Work:
    """Return the work of an update on one batch, (B, T) int32 each."""
    engine, model = spec.engine, spec.model
    planner = PassPlanner(spec.counted, skip_uncounted=engine.skip_uncounted, share_prefixes=engine.share_prefixes)
    passes = planner.passes(inputs, targets, spec.micro_batch_size or len(inputs))
    counts = count_passes(passes)
    B, T = inputs.shape
    tiles = mlp_tiles_of(spec, min(spec.micro_batch_size or B, B) * T)
    bands = {"fc1": model.fc1_band, "fc2": model.fc2_band}
    multiply_adds = {
        f"{name}_multiply_adds": sum(_multiply_adds(model.n_embd, bands[name], tile) for tile in of_products.values())
        for name, of_products in tiles.items()
    }
    return Work(
        positions=inputs.size,
        counts=counts,
        shares=not all(isinstance(each, RowPass) for each in passes),
        flop_dense=training_flop(model, plain_counts(B, T)),
        flop_done=training_flop(model, counts, **multiply_adds),
        mlp_tiles=tiles,
    )


def mlp_tiles_of(spec: EngineSpec, rows: int) -> Tiles:
    """Return how the products of both MLP matrices are cut: for passes of `rows` positions, whatever is left out."""
    tiles = mlp_tiles(spec.model, rows, CPU_COST, spec.engine.banded_products)
    return {name: dict.fromkeys(PRODUCTS, tile) for name, tile in tiles.items()}


def _multiply_adds(n_embd: int, band: int, tile: int | None) -> int:
    """Return the multiply-adds of one product for one row."""
    return 4 * n_embd * n_embd if tile is None else block_multiply_adds(hidden_blocks(n_embd, band, tile))


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
