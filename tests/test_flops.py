"""Operations of a training step: from counts, against sums done by hand; and the counts of passes, against counting."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from synthetic_rows import addition_table

from gpt2lab.engine import EngineSpec, TokenBatch, Work, plan_engine
from gpt2lab.engine.cuda.ops.banded_linear import product_blocks
from gpt2lab.engine.passes import PassPlanner, count_passes
from gpt2lab.model.bands import band_mask
from gpt2lab.model.flops import Counts, computed_flop, dense_flop_per_token, plain_counts
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import DeviceChoice, EngineConfig, EngineName, OptimConfig, Precision

TINY = GPTConfig(n_layer=3, n_head=1, n_embd=2, max_seq_len=4, vocab_size=5)
EQUATIONS = GPTConfig(n_layer=2, n_head=4, n_embd=128, max_seq_len=8, vocab_size=105)


def spec_of(model: GPTConfig, counted: tuple[int, ...] | None, **engine: Any) -> EngineSpec:
    return EngineSpec(model=model, optim=OptimConfig(), engine=EngineConfig(**engine), counted=counted)


def work_of(spec: EngineSpec, batch: TokenBatch) -> Work:
    return plan_engine(spec, batch).work


def dense_flop(spec: EngineSpec, batch: TokenBatch) -> int:
    return batch[0].size * dense_flop_per_token(spec.model, batch[0].shape[1])


def equations() -> tuple[np.ndarray, np.ndarray]:
    """Half the addition table mod 97: (4704, 8) inputs and targets."""
    rows = addition_table()
    return rows, np.roll(rows, -1, axis=1)


def test_a_step_is_the_sum_of_its_products_by_hand():
    # C = 2, F = 8, V = 5. A layer has 6·2 (qkv) + 2·2 (projection) + 16 (FC1) + 16 (FC2) = 48 weights a row, and 26 of
    # norms and biases: 4 + 4 of keys and values, 18 of the rest.
    counts = Counts(rows=7, last_rows=3, logit_rows=2, pairs=11, last_pairs=5)
    inner = 2 * (7 * (48 + 26) + (2 * 11 - 7) * 4)  # a pair: 2 for its score, 2 for its part of the sum
    last = 7 * (8 + 8) + 3 * (40 + 18) + (2 * 5 - 3) * 4  # keys and values of all, the rest of three
    assert computed_flop(TINY, counts) == 6 * (inner + last + 2 * (2 * 5 + 4))
    banded = computed_flop(TINY, counts, {"fc1": 6 + 7 + 8, "fc2": 10 + 9 + 8})
    assert computed_flop(TINY, counts) - banded == 2 * (2 * 7 + 3) * (10 + 9 + 8 + 6 + 7 + 8)


@pytest.mark.parametrize("model", [TINY, EQUATIONS], ids=["tiny", "equations"])
def test_a_plain_batch_computes_what_6n_12lct_says(model):
    for B, T in ((1, 1), (3, 4), (5, 2)):
        assert computed_flop(model, plain_counts(B, T)) == B * T * dense_flop_per_token(model, T)


def test_half_the_addition_table_with_only_the_answer_counted_is_a_fifth_of_the_plain_batch():
    spec, batch = spec_of(EQUATIONS, (4,)), equations()
    work = work_of(spec, batch)
    assert (work.positions, work.counts.rows, work.trees) == (37_632, 9_603, 1)
    assert work.counts.last_rows == work.counts.logit_rows == 4_704
    assert dense_flop(spec, batch) / work.flop == pytest.approx(5.0, abs=0.05)
    assert work.flop_per_token == round(work.flop / 37_632)


def test_what_is_switched_off_is_computed():
    batch = equations()
    off = {"skip_uncounted": False, "share_prefixes": False}
    spec = spec_of(EQUATIONS, (4,), **off)
    plain = work_of(spec, batch)
    rest = 4704 * 7 * 128 * (105 + 2)  # logits away from the answer, and their norm, are never computed
    assert dense_flop(spec, batch) - plain.flop == 6 * rest
    assert not plain.trees and plain.counts.rows == plain.counts.last_rows == plain.positions
    everything = spec_of(EQUATIONS, None, **off)
    assert work_of(everything, batch).flop == dense_flop(everything, batch)

    cut = work_of(spec_of(EQUATIONS, (4,), share_prefixes=False), batch)
    assert cut.counts == Counts(rows=4704 * 5, last_rows=4704, logit_rows=4704, pairs=4704 * 15, last_pairs=4704 * 5)
    in_parts = replace(spec_of(EQUATIONS, (4,), share_prefixes=False), micro_batch_size=1000)
    assert work_of(in_parts, batch).counts == cut.counts


def test_banded_products_count_their_blocks_corners_included():
    model = GPTConfig(n_layer=1, n_head=12, n_embd=768, max_seq_len=64, vocab_size=300, fc1_band=256)
    spec, batch = spec_of(model, None), (np.zeros((16, 64), dtype=np.int32),) * 2
    planned = plan_engine(spec, batch)
    tile = planned.tiles["fc1"]["forward"]
    dense = {"forward": None, "input": None, "weight": None}
    assert tile is not None and planned.tiles["fc2"] == dense
    kept, tiles = band_mask(768, 256), [slice(h, h + tile) for h in range(0, 4 * 768, tile)]
    removed = 4 * 768 * 768 - sum(kept[t].shape[0] * int(kept[t].any(axis=0).sum()) for t in tiles)
    assert dense_flop(spec, batch) - planned.work.flop == 6 * 1024 * removed
    off = plan_engine(spec_of(model, None, banded_products=False), batch)
    assert off.tiles == {"fc1": dense, "fc2": dense} and off.work.flop == dense_flop(spec, batch)


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_blocks_of_the_cuda_core_count_as_large_as_they_are_aligned(precision):
    model = GPTConfig(n_layer=1, n_head=12, n_embd=768, max_seq_len=1024, vocab_size=300, fc1_band=256, fc2_band=256)
    engine = EngineConfig(name=EngineName.cuda, precision=precision)
    spec = EngineSpec(model=model, optim=OptimConfig(), engine=engine, batch_size=64, seq_len=1024)
    planned = plan_engine(spec)
    align = 8 if precision is Precision.bf16 else 4
    removed = 0
    for name, tiles in planned.tiles.items():
        for product, tile in tiles.items():
            assert tile is not None
            blocks = product_blocks(name, product, n_embd=768, band=256, tile=tile, align=align)
            assert all(edge % align == 0 for block in blocks for edge in (block.hidden.start, block.channels.start))
            kept = sum(len(range(3072)[b.hidden]) * len(range(768)[b.channels]) for b in blocks)
            removed += 2 * 64 * 1024 * (3072 * 768 - kept)
    assert 64 * 1024 * dense_flop_per_token(model, 1024) - planned.work.flop == removed


def test_a_plan_is_for_the_device_that_the_spec_names():
    model = replace(EQUATIONS, fc1_band=9)
    spec = spec_of(model, None, device=DeviceChoice.mps)
    assert plan_engine(spec_of(model, None)).device == "cpu"
    on_mps = plan_engine(spec, equations())
    assert on_mps.device == "mps" and not on_mps.work.trees and set(on_mps.tiles["fc1"].values()) == {None}
    assert on_mps.memory is None


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...] | None]:
    B, T = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    inputs = draw(arrays(np.int32, (B, T), elements=st.integers(0, draw(st.integers(0, 3)))))
    counted = draw(st.none() | st.sets(st.integers(0, T - 1), min_size=1).map(lambda found: tuple(sorted(found))))
    return inputs, counted


@given(batch=batches(), skip=st.booleans(), share=st.booleans())
def test_counts_are_those_of_going_through_rows_and_prefixes_one_by_one(batch, skip, share):
    inputs, counted = batch
    passes = PassPlanner(counted, skip_uncounted=skip, share_prefixes=share).passes(inputs, inputs, len(inputs))
    found = count_passes(passes)
    B, T = inputs.shape
    wanted = range(T) if counted is None else counted
    length = max(wanted) + 1 if skip else T
    computed = [(i, t) for i in range(B) for t in range(length)]
    ends = [(i, t) for i in range(B) for t in wanted]
    if hasattr(passes[0], "n_nodes"):  # a tree: each distinct prefix once
        computed, ends = (
            list({tuple(inputs[i, : t + 1]): (i, t) for i, t in each}.values()) for each in (computed, ends)
        )
    last = ends if skip else computed
    assert found == Counts(
        rows=len(computed),
        last_rows=len(last),
        logit_rows=len(ends),
        pairs=sum(t + 1 for _, t in computed),
        last_pairs=sum(t + 1 for _, t in last),
    )
