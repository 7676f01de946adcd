"""Attention over a tree against attention of every row by itself, and against finite differences, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from proof import UNIT_ROUNDOFF, compare, tolerance

from gpt2lab.engine.passes import PrefixTree, build_tree
from gpt2lab.engine.torch.tree_attention import SeenNodes, attend_tree

CPU = torch.device("cpu")


@st.composite
def trees(draw: st.DrawFn) -> tuple[PrefixTree, np.ndarray, np.ndarray]:
    """A tree, the node of each position of each row (B, T), and the queries (m,): one row up to many, alike or not."""
    B, T = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    rows = draw(arrays(np.int32, (B, T), elements=st.integers(0, draw(st.integers(0, 4)))))
    if draw(st.booleans()):
        rows[:, 0] = np.arange(B)  # nothing is shared
    tree = build_tree(rows, rows, None)
    number = {tuple(tree.tokens[tree.path[j, : t + 1]]): j for j, t in enumerate(tree.positions.tolist())}
    node_of = np.array([[number[tuple(row[: t + 1])] for t in range(T)] for row in rows])
    queries = draw(st.sets(st.integers(0, tree.n_nodes - 1), min_size=1)) if draw(st.booleans()) else number.values()
    return tree, node_of, np.array(sorted(queries))


def values(*shape: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).requires_grad_()


def of_rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, node_of: np.ndarray, n_head: int) -> torch.Tensor:
    """Attention written out, row by row; q, k, v: (n, C). Returns (B, T, C)."""
    (B, T), HS = node_of.shape, q.shape[1] // n_head
    q, k, v = (part[torch.from_numpy(node_of)].view(B, T, n_head, HS).transpose(1, 2) for part in (q, k, v))
    scores = (q @ k.transpose(2, 3)) / HS**0.5
    scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, T, -1)


@given(case=trees(), n_head=st.integers(1, 3), HS=st.integers(1, 5))
@settings(max_examples=120)
def test_a_tree_attends_as_each_of_its_rows_by_itself(case, n_head, HS):
    tree, node_of, queries = case
    n, C = tree.n_nodes, n_head * HS
    q, k, v = (values(n, C, seed=seed) for seed in range(3))
    out = attend_tree(q[torch.from_numpy(queries)], k, v, SeenNodes(tree, queries, n_head, CPU), n_head)
    rows = of_rows(q, k, v, node_of, n_head).flatten(0, 1)
    first = [int(np.flatnonzero(node_of.ravel() == query)[0]) for query in queries]  # one place of each query
    expected = rows[torch.tensor(first)]

    dout = values(len(queries), C, seed=3).detach()
    found = (out, *torch.autograd.grad(out, (q, k, v), dout))
    wanted = (expected, *torch.autograd.grad(expected, (q, k, v), dout))
    allowed = 4 * tolerance(terms=n * C, compute="fp64", store="fp64")  # two products forward, two back
    for name, one, other in zip(("out", "dq", "dk", "dv"), found, wanted, strict=True):
        # Where there is one node to see, dq and dk are zero but for rounding: errors are relative to 1, or to more.
        error = float((one - other).detach().abs().max())
        assert error <= allowed * max(1.0, float(other.detach().abs().max())), name


def test_gradients_equal_finite_differences():
    rows = np.array([[1, 2, 3], [1, 2, 4], [1, 5, 5], [2, 2, 2]])
    tree = build_tree(rows, rows, None)
    seen = SeenNodes(tree, np.array([2, 3, 4, 7]), 2, CPU)
    q, k, v = values(4, 6, seed=0), values(tree.n_nodes, 6, seed=1), values(tree.n_nodes, 6, seed=2)
    assert torch.autograd.gradcheck(lambda *qkv: attend_tree(*qkv, seen, 2), (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_numbers_are_rounded_at_the_ends_only(dtype):
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.zeros((500, 1), dtype=np.int64), rng.integers(0, 9, (500, 4))], axis=1)
    tree = build_tree(rows, rows, None)
    n, C, n_head = tree.n_nodes, 24, 3
    seen = SeenNodes(tree, np.arange(n), n_head, CPU)
    exact = [values(n, C, seed=seed).detach().to(dtype).double().requires_grad_() for seed in range(3)]
    narrow = [part.detach().to(dtype).requires_grad_() for part in exact]
    dout = values(n, C, seed=3).detach().to(dtype)
    wide_out, out = attend_tree(*exact, seen, n_head), attend_tree(*narrow, seen, n_head)
    assert out.dtype == dtype
    found = (out, *torch.autograd.grad(out, narrow, dout))
    wanted = (wide_out, *torch.autograd.grad(wide_out, exact, dout.double()))
    store = 0 if dtype is torch.float32 else UNIT_ROUNDOFF["bf16"]  # results are stored narrow, nothing else is
    for name, one, other in zip(("out", "dq", "dk", "dv"), found, wanted, strict=True):
        allowed = 4 * tolerance(terms=n) + store  # the root is seen by every node
        check = compare(name, one.detach().double().numpy(), other.detach().numpy(), allowed)
        assert check.passed, check


def test_the_same_numbers_give_the_same_bits():
    rng = np.random.default_rng(1)
    rows = np.concatenate([np.zeros((400, 1), dtype=np.int64), rng.integers(0, 9, (400, 4))], axis=1)
    tree = build_tree(rows, rows, None)
    seen = SeenNodes(tree, np.arange(tree.n_nodes), 2, CPU)
    q, k, v, dout = (values(tree.n_nodes, 16, seed=seed).detach().float() for seed in range(4))

    def once() -> list[torch.Tensor]:
        parts = [part.clone().requires_grad_() for part in (q, k, v)]
        out = attend_tree(*parts, seen, 2)
        return [out.detach(), *torch.autograd.grad(out, parts, dout)]

    for one, other in zip(once(), once(), strict=True):
        assert torch.equal(one, other)
