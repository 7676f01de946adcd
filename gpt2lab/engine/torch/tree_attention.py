"""Attention over a tree of prefixes: each node sees its ancestors and itself, which are what its rows hold before it.

The pairs (query, seen node) are sparse, so all products are over pairs: scores and their gradients are dot products of
two rows picked for each pair, outputs and gradients are weighted sums of rows over each query's or each key's pairs.
PyTorch has both as `embedding_bag` and the gradient of its weights: nothing is gathered into memory first, every sum
has a fixed order. In the tables of rows below each head of a node is a row of its own, HS wide.
Shapes: n nodes, m queries, T the longest path, NH heads, HS = C / NH, P pairs of a query's head and a node it sees.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt2lab.engine.passes import PrefixTree


class SeenNodes:
    """Which nodes the queries at `queries` (m,) int, ascending nodes of a tree, see: index tensors, all int32.

    A *slot* is a place in an array (T, m, NH): what a query's head sees at each depth. Slots deeper than the query
    are hidden.
    """

    def __init__(self, tree: PrefixTree, queries: np.ndarray, n_head: int, device: torch.device) -> None:
        m, n, T = len(queries), tree.n_nodes, tree.path.shape[1]
        assert T * m * n_head < 2**31, f"{T} x {m} x {n_head} slots are more than an int32 counts"
        heads = np.arange(n_head)
        seen = tree.path[queries].T  # (T, m)
        hidden = np.arange(T)[:, None] > tree.positions[queries]

        depths, query = (np.ascontiguousarray(index) for index in np.nonzero(~hidden.T)[::-1])
        slots = (depths * m + query)[:, None] * n_head + heads  # (pairs, NH), queries ascending
        key = seen[depths, query]
        by_key = np.argsort(key, kind="stable")
        query_slots, self_begins = _bags(slots, query, m)
        key_slots, key_begins = _bags(slots[by_key], key[by_key], n)

        query_rows = np.tile(np.arange(m * n_head), T)
        key_rows = (seen[:, :, None] * n_head + heads).ravel()

        def upload(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int32)).to(device)

        self.hidden = torch.from_numpy(np.repeat(hidden, n_head, axis=1)).to(device)  # (T, m*NH) bool
        self.query_rows, self.key_rows = upload(query_rows), upload(key_rows)  # (T*m*NH,) of each slot
        # Each bag's slots, and the rows it sums: a query's keys or values, then a key's queries.
        self.query_slots, self.query_begins = upload(query_slots), upload(self_begins)  # (P,), (m*NH,)
        self.rows_of_query = upload(key_rows[query_slots])  # (P,)
        self.key_slots, self.key_begins = upload(key_slots), upload(key_begins)  # (P,), (n*NH,)
        self.rows_of_key = upload(query_rows[key_slots])  # (P,)


def _bags(slots: np.ndarray, owner: np.ndarray, n_owners: int) -> tuple[np.ndarray, np.ndarray]:
    """Put the slots (pairs, NH) of ascending `owner` (pairs,) in order of owner and head; return where each begins."""
    n_head = slots.shape[1]
    sizes = np.bincount(owner, minlength=n_owners)
    first = np.cumsum(sizes) - sizes  # the first pair of each owner
    heads = np.arange(n_head)
    place = (n_head * first[owner] + np.arange(len(owner)) - first[owner])[:, None] + heads * sizes[owner][:, None]
    ordered = np.empty(slots.size, dtype=np.int64)
    ordered[place] = slots
    return ordered, (n_head * first[:, None] + heads * sizes[:, None]).ravel()


def attend_tree(q: Tensor, k: Tensor, v: Tensor, seen: SeenNodes, n_head: int) -> Tensor:
    """Return softmax(q k^T / sqrt(HS)) v over what each query sees, (m, C) in q's type. q: (m, C), k and v: (n, C).

    It computes in float32, or in float64 when that is what comes.
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    rows = [part.to(wide).contiguous() for part in (q, k, v)]
    return _TreeAttention.apply(*rows, seen, n_head).to(q.dtype)


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: SeenNodes, n_head: int) -> Tensor:
        HS = q.shape[1] // n_head
        queries, keys, values = (part.view(-1, HS) for part in (q, k, v))
        scores = _dot(queries, seen.query_rows, keys, seen.key_rows).view(seen.hidden.shape)
        scores.mul_(HS**-0.5).masked_fill_(seen.hidden, -torch.inf)
        weights = scores.softmax(dim=0)
        ctx.save_for_backward(q, k, v, weights)
        ctx.seen, ctx.n_head = seen, n_head
        out = _sum(values, seen.rows_of_query, seen.query_begins, weights, seen.query_slots)
        return out.view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, weights = ctx.saved_tensors
        seen = ctx.seen
        HS = q.shape[1] // ctx.n_head
        queries, keys, values, douts = (part.view(-1, HS) for part in (q, k, v, dout.contiguous()))
        dscores = _dot(douts, seen.query_rows, values, seen.key_rows).view(weights.shape)
        # The softmax's gradient: w (dw - sum of w dw); hidden slots have w = 0.
        dscores.sub_((dscores * weights).sum(dim=0)).mul_(weights).mul_(HS**-0.5)
        dq = _sum(keys, seen.rows_of_query, seen.query_begins, dscores, seen.query_slots)
        dk = _sum(queries, seen.rows_of_key, seen.key_begins, dscores, seen.key_slots)
        dv = _sum(douts, seen.rows_of_key, seen.key_begins, weights, seen.key_slots)
        return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape), None, None


def _dot(a: Tensor, a_rows: Tensor, b: Tensor, b_rows: Tensor) -> Tensor:
    """Return the dot products a[a_rows[i]] . b[b_rows[i]], (slots,)."""
    # Private to PyTorch: what autograd calls for the weights of an embedding_bag. Offsets are checked and not read.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(a, b, b_rows, a_rows[:0], a_rows, 0)


def _sum(table: Tensor, rows: Tensor, begins: Tensor, weights: Tensor, slots: Tensor) -> Tensor:
    """Return for each bag the sum of weights[slots[i]] * table[rows[i]] over its i, (bags, HS)."""
    chosen = weights.view(-1).index_select(0, slots)
    return torch.nn.functional.embedding_bag(rows, table, begins, mode="sum", per_sample_weights=chosen)
