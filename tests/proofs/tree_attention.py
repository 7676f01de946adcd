"""Attention over prefix trees against numpy in float64, where every query has a row to itself and nothing is shared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from proof import Check, compare_sums
from proofs.arrays import Arrays, same, twice_the_same

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.ops.tree_attention import CHUNK, TreeAttention, key_work
from gpt2lab.engine.passes import PrefixTree, build_tree
from gpt2lab.schema import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One batch of rows. Tokens are random below V: the smaller, the more is shared; 0 = no row shares anything."""

    B: int
    T: int
    V: int
    NH: int
    HS: int
    counted: tuple[int, ...] | None = None  # positions whose nodes alone are queries; None = every node is one
    chunk: int = CHUNK
    padding: int = 0  # nodes behind the tree's own that nothing looks at
    large_scores: bool = False  # |scores| in the thousands, where exp overflows unless the maximum goes first

    def __str__(self) -> str:
        queries = "" if self.counted is None else " at " + ",".join(map(str, self.counted))
        rest = f" chunk {self.chunk}" * (self.chunk != CHUNK) + " padded" * bool(self.padding)
        shape = f"B{self.B} T{self.T} V{self.V} NH{self.NH} HS{self.HS}"
        return f"tree {shape}{queries}{rest}" + " large scores" * self.large_scores

    def rows(self) -> np.ndarray:
        """Return tokens (B, T) int32."""
        if not self.V:
            return np.arange(self.B * self.T, dtype=np.int32).reshape(self.B, self.T)
        return np.random.default_rng(5).integers(0, self.V, (self.B, self.T), dtype=np.int32)


CASES = (
    Case(B=1, T=5, V=9, NH=3, HS=3),
    Case(B=5, T=1, V=3, NH=2, HS=8),
    Case(B=4, T=8, V=1, NH=1, HS=32),  # all rows equal
    Case(B=3, T=5, V=0, NH=2, HS=64, padding=2),  # nothing shared
    Case(B=70, T=8, V=2, NH=2, HS=8),  # ranges of queries that are split
    Case(B=40, T=8, V=2, NH=1, HS=1, counted=(4, 7), padding=3, chunk=3),
    Case(B=9, T=17, V=2, NH=3, HS=20, counted=(16,)),
    Case(B=6, T=20, V=2, NH=1, HS=136, counted=(0, 2, 19), chunk=2),
    Case(B=5, T=32, V=2, NH=2, HS=64, chunk=5),
    Case(B=4, T=9, V=2, NH=1, HS=256, padding=1),
    Case(B=3, T=3, V=2, NH=1, HS=255, counted=(0,)),
    Case(B=6, T=11, V=2, NH=2, HS=64, large_scores=True),
)


def tree_of(case: Case) -> PrefixTree:
    counted = None if case.counted is None else np.array(case.counted)
    rows = case.rows()
    return build_tree(rows, np.zeros((case.B, case.T if counted is None else len(counted)), dtype=np.int32), counted)


def keys_of_queries(case: Case) -> list[list[int]]:
    """Return what each query sees: its node's ancestors, itself the last. Nodes are the sorted distinct prefixes."""
    rows = [tuple(row) for row in case.rows().tolist()]
    number = {prefix: i for i, prefix in enumerate(sorted({row[: t + 1] for row in rows for t in range(case.T)}))}
    at = range(case.T) if case.counted is None else case.counted
    prefixes = sorted({row[: t + 1] for row in rows for t in at})
    return [[number[prefix[: t + 1]] for t in range(len(prefix))] for prefix in prefixes]


def reference_forward(case: Case, q: np.ndarray, qkv: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return out (m, C) and lse (m, NH), each with its sums of |terms|, from q (m, C) and qkv (n, 3C), in float64."""
    out, lse = np.zeros((2, len(q), case.NH, case.HS)), np.zeros((2, len(q), case.NH))
    _, k, v = qkv.reshape(-1, 3, case.NH, case.HS).swapaxes(0, 1)
    for i, keys in enumerate(keys_of_queries(case)):
        scores = np.einsum("hc,shc->hs", q[i].reshape(case.NH, case.HS), k[keys]) / np.sqrt(case.HS)
        highest = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - highest)
        for x, values in zip(out, (v, np.abs(v)), strict=True):
            x[i] = np.einsum("hs,shc->hc", p / p.sum(axis=1, keepdims=True), values[keys])
        products = np.einsum("hc,shc->hs", np.abs(q[i].reshape(case.NH, case.HS)), np.abs(k[keys])) / np.sqrt(case.HS)
        for x, at_most in zip(lse, (highest[:, 0], products.max(axis=1)), strict=True):
            x[i] = at_most + np.log(p.sum(axis=1))
    return (*out.reshape(2, len(q), -1), *lse)


def reference_backward(
    case: Case, dout: np.ndarray, out: np.ndarray, lse: np.ndarray, q: np.ndarray, qkv: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return dq (m, C), dk and dv (n, C), in float64, from stored out and lse; and their sums of |terms|."""
    _, k, v = qkv.reshape(-1, 3, case.NH, case.HS).swapaxes(0, 1)
    q, dout, out = (x.reshape(-1, case.NH, case.HS) for x in (q, dout, out))
    weights = []
    for i, keys in enumerate(keys_of_queries(case)):
        scores = np.einsum("hc,shc->hs", q[i], k[keys]) / np.sqrt(case.HS)
        weights.append((i, keys, np.exp(scores - lse[i][:, None])))
    gradients = _gradients(weights, dout, -out, q, k, v)
    return gradients, _gradients(weights, *(np.abs(x) for x in (dout, out, q, k, v)))


def _gradients(
    weights: list[tuple[int, list[int], np.ndarray]],
    dout: np.ndarray,
    minus_out: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return dq (m, C), dk and dv (n, C); weights: each query with its keys and p (NH, keys)."""
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for i, keys, p in weights:
        dp = np.einsum("hc,shc->hs", dout[i], v[keys]) + (dout[i] * minus_out[i]).sum(axis=1)[:, None]
        ds = p * dp / np.sqrt(q.shape[2])
        dq[i] = np.einsum("hs,shc->hc", ds, k[keys])
        dk[keys] += np.einsum("hs,hc->shc", ds, q[i])
        dv[keys] += np.einsum("hs,hc->shc", p, dout[i])
    return {name: x.reshape(len(x), -1) for name, x in (("dq", dq), ("dk", dk), ("dv", dv))}


class Bench:
    """The op for one case, between arrays of float64 on this side and stored arrays on the device.

    With padding, nodes and queries come behind the tree's own; n and m count them too.
    """

    def __init__(self, device: Device, precision: Precision, case: Case) -> None:
        self.case, self.arrays, self.C = case, Arrays(device, precision), case.NH * case.HS
        self.op = TreeAttention(device, self.arrays.numerics, n_head=case.NH, head_size=case.HS)
        tree, added = tree_of(case), np.arange(case.padding, dtype=np.int32)
        self.n_nodes = tree.n_nodes
        nodes = tree.n_nodes + added
        self.n = tree.n_nodes + len(added)
        self.queries = None if case.counted is None else np.append(tree.counted, nodes).astype(np.int32)
        self.m = self.n if self.queries is None else len(self.queries)
        # One padding node ends where it begins, the next behind itself: both are allowed.
        ends = np.append(tree.ends, nodes + added % 2)
        items, sums = key_work(ends, self.queries, chunk=case.chunk)
        self.most_queries = int((items[:, 2] - items[:, 1]).max()) if not len(sums) else self.m
        self.n_slots = int(items[:, 3].max()) + 1
        n_sums = len(sums) + case.padding
        items = np.append(items, np.full((case.padding, 4), -1), axis=0)
        sums = np.append(sums, np.full((case.padding + 1, 3), -1), axis=0)
        path = np.append(tree.path, np.repeat(nodes[:, None], case.T, axis=1), axis=0)
        self.tree: dict[str, Array | None] = {
            "path": self.arrays.int(path),
            "positions": self.arrays.int(np.append(tree.positions, 0 * nodes)),
            "nodes": None if self.queries is None else self.arrays.int(self.queries),
        }
        self.work = {"items": self.arrays.int(items), "sums": self.arrays.int(sums)[:n_sums]}

    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return q (m, C), qkv (n, 3C) and dout (m, C) as stored activations hold them; dout of padding is zero."""
        qkv, dout = self.arrays.normal(self.n, 3 * self.C), self.arrays.normal(self.m, self.C)
        dout[self.m - self.case.padding :] = 0.0
        if self.case.large_scores:
            # Small whole numbers times 30, so that scores of heads of 64 are exact: else their own rounding would be
            # amplified.
            qkv[:, : 2 * self.C] = 30.0 * self.arrays.rng.integers(-2, 3, (self.n, 2 * self.C))
        qkv, dout = (self.arrays.act(x)[1] for x in (qkv, dout))
        return (qkv if self.queries is None else qkv[self.queries])[:, : self.C], qkv, dout

    def forward(self, q: np.ndarray, qkv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return out (m, C) and lse (m, NH)."""
        out, lse = self._unwritten(self.m, self.C), self.arrays.float(np.full((self.m, self.case.NH), np.nan))[0]
        self.op.forward(out=out, lse=lse, **self._inputs(q, qkv), **self.tree)
        return self.arrays.values(out), self.arrays.values(lse)

    def backward(
        self, dout: np.ndarray, out: np.ndarray, lse: np.ndarray, q: np.ndarray, qkv: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return dq (m, C) and dqkv (n, 3C)."""
        dqkv = self._unwritten(self.n, 3 * self.C)
        dq = dqkv if self.queries is None else self._unwritten(self.m, self.C)
        self.op.backward(
            dq=dq,
            dqkv=dqkv,
            dout=self.arrays.act(dout)[0],
            out=self.arrays.act(out)[0],
            lse=self.arrays.float(lse)[0],
            delta=self.arrays.empty_float(self.m, self.case.NH),
            partials=self.arrays.empty_float(max(1, self.n_slots) * 2 * self.C),
            **self._inputs(q, qkv),
            **self.tree,
            **self.work,
        )
        return self.arrays.values(dq)[:, : self.C], self.arrays.values(dqkv)

    def _inputs(self, q: np.ndarray, qkv: np.ndarray) -> dict[str, Array]:
        wide = self.arrays.act(qkv)[0]
        return {"q": wide if self.queries is None else self.arrays.act(q)[0], "qkv": wide}

    def _unwritten(self, *shape: int) -> Array:
        return self.arrays.act(np.full(shape, np.nan))[0]


def check(device: Device, precision: Precision, cases: Sequence[Case] = CASES) -> Iterator[Check]:
    """Yield every comparison of the op on this device."""
    for case in cases:
        yield from check_case(Bench(device, precision, case))
        if case.padding:
            yield from check_padding(device, precision, case)


def check_case(bench: Bench) -> Iterator[Check]:
    """Compare forward, and backward from the reference's out and lse, with the reference."""
    case, arrays, (q, qkv, dout) = bench.case, bench.arrays, bench.inputs()
    n, m, C = bench.n_nodes, bench.m - case.padding, bench.C
    out, out_sums, lse, lse_sums = reference_forward(case, q[:m], qkv[:n])
    (found_out, found_lse), again = twice_the_same(f"{case} forward", lambda: list(bench.forward(q, qkv)))
    yield again
    terms, compute, store = case.HS + case.T, arrays.compute, arrays.store
    yield compare_sums(f"{case} out", found_out[:m], out, out_sums, terms=terms, compute=compute, store=store)
    yield compare_sums(f"{case} lse", found_lse[:m], lse, lse_sums, terms=terms, compute=compute, store=compute)

    out, lse = arrays.act(out)[1], arrays.float(lse)[1]
    expected, sums = reference_backward(case, dout[:m], out, lse, q[:m], qkv[:n])
    full_out, full_lse = np.append(out, found_out[m:], axis=0), np.append(lse, found_lse[m:], axis=0)
    (found_dq, dqkv), again = twice_the_same(
        f"{case} backward", lambda: list(bench.backward(dout, full_out, full_lse, q, qkv))
    )
    yield again
    found = {"dq": found_dq[:m], "dk": dqkv[:n, C : 2 * C], "dv": dqkv[:n, 2 * C :]}
    terms = 2 * case.HS + max(case.T, bench.most_queries)
    for name, x in expected.items():
        yield compare_sums(f"{case} {name}", found[name], x, sums[name], terms=terms, compute=compute, store=store)
    if bench.queries is not None:
        yield same(f"{case} leaves the first C columns of dqkv alone", dqkv[:, :C], np.full_like(dqkv[:, :C], np.nan))


def check_padding(device: Device, precision: Precision, case: Case) -> Iterator[Check]:
    """Nodes that nothing looks at get gradients of exactly zero, and change no bit of the others."""
    padded, plain = Bench(device, precision, case), Bench(device, precision, replace(case, padding=0))
    q, qkv, dout = padded.inputs()
    n, m, C = plain.n, plain.m, plain.C
    (out, lse), (plain_out, plain_lse) = padded.forward(q, qkv), plain.forward(q[:m], qkv[:n])
    yield same(f"{case} out beside padding", out[:m], plain_out)
    yield same(f"{case} lse beside padding", lse[:m], plain_lse)
    dq, dqkv = padded.backward(dout, out, lse, q, qkv)
    plain_dq, plain_dqkv = plain.backward(dout[:m], plain_out, plain_lse, q[:m], qkv[:n])
    yield same(f"{case} dq beside padding", dq[:m], plain_dq)
    yield same(f"{case} dk and dv beside padding", dqkv[:n, C:], plain_dqkv[:, C:])
    of_padding = np.abs(np.concatenate([dq[m:].ravel(), dqkv[n:, C:].ravel()]))
    yield Check(name=f"{case} gradients of padding", error=float(of_padding.max()), tolerance=0.0)
