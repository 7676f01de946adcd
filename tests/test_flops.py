"""Operations of a training step: from counts, against sums done by hand; and the counts of passes, against counting."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from synthetic_rows import addition_table

from gpt2lab.engine import EngineSpec
from gpt2lab.engine.cuda.ops.banded_linear import product_blocks
from gpt2lab.engine.passes import PassPlanner
from gpt2lab.model.bands import band_mask
from gpt2lab.model.flops import Counts, dense_flop_per_token, plain_counts, training_flop
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import EngineConfig, EngineName, OptimConfig, Precision
from gpt2lab.train.work import count_passes, unread_work, work_of

TINY = GPTConfig(n_layer=3, n_head=1, n_embd=2, max_seq_len=4, vocab_size=5)
EQUATIONS = GPTConfig(n_layer=2, n_head=4, n_embd=128, max_seq_len=8, vocab_size=105)


def spec_of(model: GPTConfig, counted: tuple[int, ...] | None, **engine: bool) -> EngineSpec:
    return EngineSpec(model=model, optim=OptimConfig(), engine=EngineConfig(**engine), counted=counted)


def equations() -> tuple[np.ndarray, np.ndarray]:
    """Half the addition table mod 97: (4704, 8) inputs and targets."""
    rows = addition_table()
    return rows, np.roll(rows, -1, axis=1)


def test_a_step_is_the_sum_of_its_products_by_hand():
    # C = 2, F = 8, V = 5. A layer has 6·2 (qkv) + 2·2 (projection) + 16 (FC1) + 16 (FC2) = 48 multiply-adds a row.
    counts = Counts(rows=7, last_rows=3, logit_rows=2, pairs=11, last_pairs=5)
    inner = 2 * (7 * 48 + 11 * 4)  # a pair: 2 for its score, 2 for its part of the sum
    last = 7 * 8 + 3 * 40 + 5 * 4  # keys and values of all, the rest of three
    assert training_flop(TINY, counts) == 6 * (inner + last + 2 * 2 * 5)
    banded = training_flop(TINY, counts, fc1_multiply_adds=6 + 7 + 8, fc2_multiply_adds=10 + 9 + 8)
    assert training_flop(TINY, counts) - banded == 2 * (2 * 7 + 3) * (10 + 9 + 8 + 6 + 7 + 8)


def test_a_plain_batch_is_6n_12lct_without_what_is_not_multiplied_and_with_causal_pairs():
    gpt2 = GPTConfig(n_layer=12, n_head=12, n_embd=768, max_seq_len=1024, vocab_size=50257)
    B, T, C, L = 3, 64, 768, 12
    vectors = L * (4 * C + 9 * C) + 2 * C  # norms and biases
    usual = dense_flop_per_token(gpt2, T) * B * T
    twice_seen = 12 * L * C * B * (T * T - T * (T + 1) // 2)
    assert training_flop(gpt2, plain_counts(B, T)) == usual - 6 * vectors * B * T - twice_seen


def test_half_the_addition_table_with_only_the_answer_counted_is_a_fifth_of_the_plain_batch():
    work = work_of(spec_of(EQUATIONS, (4,)), *equations(), device="cpu")
    assert (work.positions, work.counts.rows, work.trees) == (37_632, 9_603, 1)
    assert work.counts.last_rows == work.counts.logit_rows == 4_704
    assert work.flop_dense / work.flop_done == pytest.approx(5.0, abs=0.05)


def test_what_is_switched_off_is_computed():
    inputs, targets = equations()
    off = {"skip_uncounted": False, "share_prefixes": False}
    plain = work_of(spec_of(EQUATIONS, (4,), **off), inputs, targets, device="cpu")
    rest = 4704 * 7 * 128 * 105  # logits away from the answer are never computed
    assert plain.flop_dense - plain.flop_done == 6 * rest
    assert not plain.trees and plain.counts.rows == plain.counts.last_rows == plain.positions
    everything = work_of(spec_of(EQUATIONS, None, **off), inputs, targets, device="cpu")
    assert everything.flop_done == everything.flop_dense

    cut = work_of(spec_of(EQUATIONS, (4,), share_prefixes=False), inputs, targets, device="cpu")
    assert cut.counts == Counts(rows=4704 * 5, last_rows=4704, logit_rows=4704, pairs=4704 * 15, last_pairs=4704 * 5)
    in_parts = replace(spec_of(EQUATIONS, (4,), share_prefixes=False), micro_batch_size=1000)
    parts = work_of(in_parts, inputs, targets, device="cpu")
    assert parts.counts == cut.counts


def test_banded_products_count_their_blocks_corners_included():
    model = GPTConfig(n_layer=1, n_head=12, n_embd=768, max_seq_len=64, vocab_size=300, fc1_band=256)
    inputs = np.zeros((16, 64), dtype=np.int32)
    done = work_of(spec_of(model, None), inputs, inputs, device="cpu")
    tile = done.mlp_tiles["fc1"]["forward"]
    dense = {"forward": None, "input": None, "weight": None}
    assert tile is not None and done.mlp_tiles["fc2"] == dense
    kept, tiles = band_mask(768, 256), [slice(h, h + tile) for h in range(0, 4 * 768, tile)]
    removed = 4 * 768 * 768 - sum(kept[t].shape[0] * int(kept[t].any(axis=0).sum()) for t in tiles)
    assert done.flop_dense - done.flop_done == 6 * 1024 * removed
    off = work_of(spec_of(model, None, banded_products=False), inputs, inputs, device="cpu")
    assert off.mlp_tiles == {"fc1": dense, "fc2": dense} and off.flop_done == off.flop_dense


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_blocks_of_the_cuda_core_count_as_large_as_they_are_aligned(precision):
    model = GPTConfig(n_layer=1, n_head=12, n_embd=768, max_seq_len=1024, vocab_size=300, fc1_band=256, fc2_band=256)
    engine = EngineConfig(name=EngineName.cuda, precision=precision)
    spec = EngineSpec(model=model, optim=OptimConfig(), engine=engine, batch_size=64, seq_len=1024)
    done = unread_work(spec, device="cuda")
    align = 8 if precision is Precision.bf16 else 4
    removed = 0
    for name, tiles in done.mlp_tiles.items():
        for product, tile in tiles.items():
            assert tile is not None
            blocks = product_blocks(name, product, n_embd=768, band=256, tile=tile, align=align)
            assert all(edge % align == 0 for block in blocks for edge in (block.hidden.start, block.channels.start))
            kept = sum(len(range(3072)[b.hidden]) * len(range(768)[b.channels]) for b in blocks)
            removed += 2 * 64 * 1024 * (3072 * 768 - kept)
    assert done.flop_dense - done.flop_done == removed


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
