"""The tree of a batch against its definition, prefix by prefix, and the passes that are planned from batches."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from synthetic_rows import addition_table

from gpt2lab.engine.passes import PassPlanner, PrefixTree, RowPass, build_tree


def prefixes(tree: PrefixTree) -> list[tuple[int, ...]]:
    """Return the prefix that each node stands for."""
    return [
        tuple(tree.tokens[path[: depth + 1]]) for path, depth in zip(tree.path, tree.positions.tolist(), strict=True)
    ]


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    B, T = draw(st.integers(1, 10)), draw(st.integers(1, 5))
    tokens = st.integers(0, draw(st.integers(0, 3)))
    counted = sorted(draw(st.sets(st.integers(0, T - 1), min_size=1)))
    inputs = draw(arrays(np.int32, (B, T), elements=tokens))
    targets = draw(arrays(np.int32, (B, len(counted)), elements=tokens))
    return inputs, targets, np.array(counted, dtype=np.int32)


@given(batches())
def test_nodes_are_the_distinct_prefixes_in_preorder(batch):
    inputs, targets, counted = batch
    tree = build_tree(inputs, targets, counted)
    found = prefixes(tree)
    assert found == sorted({tuple(row[: t + 1]) for row in inputs for t in range(inputs.shape[1])})
    for j, prefix in enumerate(found):
        below = [i for i, other in enumerate(found) if other[: len(prefix)] == prefix]
        assert below == list(range(j, tree.ends[j]))
        assert (tree.path[j, len(prefix) - 1 :] == j).all()


@given(batches())
def test_every_target_is_counted_as_often_as_rows_have_it(batch):
    inputs, targets, counted = batch
    tree = build_tree(inputs, targets, counted)
    found = prefixes(tree)
    wanted = Counter(
        (tuple(row[: p + 1]), int(target))
        for row, of_row in zip(inputs, targets, strict=True)
        for p, target in zip(counted, of_row, strict=True)
    )
    pairs = zip(tree.counted[tree.pair_rows], tree.targets, tree.counts, strict=True)
    assert {(found[node], int(target)): int(count) for node, target, count in pairs} == wanted
    assert tree.n_counted == targets.size
    assert (np.diff(tree.counted) > 0).all()


def full_batch() -> tuple[np.ndarray, np.ndarray]:
    rows = addition_table()
    return rows, np.ascontiguousarray(np.roll(rows, -1, axis=1))


def test_half_the_table_modulo_97_has_9603_distinct_prefixes_up_to_the_answer():
    inputs, targets = full_batch()
    planner = PassPlanner((4,), skip_uncounted=True, share_prefixes=True)
    (tree,) = planner.passes(inputs, targets, len(inputs))
    assert isinstance(tree, PrefixTree)
    assert inputs.shape == (4704, 8)
    assert (tree.n_nodes, len(tree.counted), tree.n_counted) == (9603, 4704, 4704)


@pytest.mark.parametrize(("T", "alike", "tree"), [(8, 7, True), (8, 0, False), (32, 16, True), (32, 6, False)])
def test_a_tree_is_taken_where_it_saves_more_than_scattered_attention_costs(T, alike, tree):
    # Eight rows of T different tokens with their first `alike` in common: 15 and 64 of 64 nodes, 144 and 214 of 256.
    # Updates with 0.89 of 32 positions took longer as a tree, those with 0.56 less (tools/bench.py sharing).
    inputs = np.arange(8 * T, dtype=np.int32).reshape(8, T)
    inputs[:, :alike] = inputs[0, :alike]
    (planned,) = PassPlanner(None, skip_uncounted=True, share_prefixes=True).passes(inputs, inputs, 8)
    assert isinstance(planned, PrefixTree) == tree


def test_rows_are_cut_after_the_last_counted_position_when_nothing_is_shared():
    inputs, targets = full_batch()
    (rows,) = PassPlanner((2, 4), skip_uncounted=True, share_prefixes=False).passes(inputs, targets, len(inputs))
    assert isinstance(rows, RowPass)
    np.testing.assert_array_equal(rows.tokens, inputs[:, :5])
    np.testing.assert_array_equal(rows.targets, targets[:, [2, 4]])


def test_nothing_is_left_out_when_it_is_switched_off():
    inputs, targets = full_batch()
    (rows,) = PassPlanner((4,), skip_uncounted=False, share_prefixes=False).passes(inputs, targets, len(inputs))
    assert isinstance(rows, RowPass)
    assert rows.tokens.shape == inputs.shape
    assert not rows.trims_last


def test_rows_that_share_nothing_stay_rows():
    inputs = np.random.default_rng(0).integers(0, 1000, (64, 8)).astype(np.int32)
    (rows,) = PassPlanner(None, skip_uncounted=True, share_prefixes=True).passes(inputs, inputs, 64)
    assert isinstance(rows, RowPass)


def test_a_read_only_batch_that_comes_again_is_planned_once():
    inputs, targets = full_batch()
    planner = PassPlanner(None, skip_uncounted=True, share_prefixes=True)
    assert planner.passes(inputs, targets, 1000)[0] is not planner.passes(inputs, targets, 1000)[0]
    inputs.flags.writeable = targets.flags.writeable = False
    first = planner.passes(inputs, targets, 1000)
    assert planner.passes(inputs, targets, 1000) is first
    assert planner.passes(inputs, targets, 500) is not first
    assert sum(part.n_counted for part in first) == inputs.size
