"""What the passes of an update compute, counted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.passes.planner import LONGEST_SHARED, NEVER_SHARED_ON, Pass, RowPass, planner_of
from gpt2lab.engine.passes.prefix_tree import PrefixTree
from gpt2lab.engine.plan import TokenBatch, Work
from gpt2lab.model.flops import Counts, computed_flop, plain_counts


def count_work(
    spec: EngineSpec, batch: TokenBatch | None, *, device: str, mlp_multiply_adds: Mapping[str, int] | None = None
) -> Work:
    """Return the work of an update on `device`; `mlp_multiply_adds` as for `computed_flop`.

    Without a batch: of `spec.batch_size` rows of which no two begin alike.
    """
    if batch is None:
        B, T = spec.batch_size, spec.seq_len or spec.model.max_seq_len
        row = np.zeros((1, T), dtype=np.int32)
        unshared = replace(spec, engine=replace(spec.engine, share_prefixes=False))
        counts = count_passes(planner_of(unshared, device).passes(row, row, 1)).times(B)
        n_passes, trees = -(-B // (spec.micro_batch_size or B)), 0
    else:
        B, T = batch[0].shape
        passes = planner_of(spec, device).passes(*batch, spec.micro_batch_size or B)
        counts = count_passes(passes)
        n_passes, trees = len(passes), sum(isinstance(each, PrefixTree) for each in passes)
    return Work(
        positions=B * T,
        counts=counts,
        passes=n_passes,
        trees=trees,
        flop=computed_flop(spec.model, counts, mlp_multiply_adds),
        why_not_shared=None if trees or T > LONGEST_SHARED else _why_not_shared(spec, device, batch),
    )


def _why_not_shared(spec: EngineSpec, device: str, batch: TokenBatch | None) -> str:
    if not spec.engine.share_prefixes:
        return "engine.share_prefixes=false: every row by itself"
    if device in NEVER_SHARED_ON:
        return f"nothing is shared on {device}: every row by itself"
    if batch is None:
        return "rows that begin alike share that: how many, is known when the data is read"
    return "too few rows begin alike for sharing to pay"


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
