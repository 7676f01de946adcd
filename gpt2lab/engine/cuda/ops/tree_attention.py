"""Causal self-attention of the nodes of a prefix tree, forward and backward: cuda/attention_tree.cu."""

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.device.sources import constant
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.attention import check_head_size

# Queries that one group of threads walks over for the gradient of a key and a value. Most nodes are seen by one or two
# queries, the root by all of them: alone it would keep one group busy long after the others have ended.
CHUNK = 32

_THREADS = constant("attention_tree.cu", "THREADS")
_WARP = constant("attention_tree.cu", "WARP")


class TreeAttention:
    """out[i] = softmax(q[i] k' / sqrt(HS)) v for each head, query i seeing the nodes from the root to its own.

    n nodes, m queries. Query i is node i (`nodes` is None, m = n), or node nodes[i], `nodes` (m,) int32 ascending.
    q and dq are (m, C), or the first C columns of qkv and dqkv themselves (n, 3C) when every node is a query; keys and
    values are columns C to 3C of qkv (n, 3C). out and dout (m, C); lse and delta (m, NH) float; path (n, T) int32 and
    positions (n,) int32 as in PrefixTree. Raises EngineError for heads that are too large.

    Any T will do. A padding node has position 0 and itself as its path.
    """

    def __init__(self, device: Device, numerics: Numerics, *, n_head: int, head_size: int) -> None:
        check_head_size(head_size)
        pack = numerics.pack(head_size)
        self._n_head, self._C = n_head, n_head * head_size
        # Threads of a group: one per pack of a head's channels, rounded up to a power of two; a warp at most.
        self._lanes = min(_WARP, 1 << (head_size // pack - 1).bit_length())
        defines = {"VEC": pack, "HEAD_SIZE": head_size}
        self._module = device.compile("attention_tree.cu", numerics.defines | defines)

    def forward(
        self, *, out: Array, lse: Array, q: Array, qkv: Array, path: Array, positions: Array, nodes: Array | None
    ) -> None:
        """Write out, and lse = log sum_j exp(q[i] . k[j] / sqrt(HS)), which backward wants again."""
        m = self._queries(q, qkv, nodes)
        arrays = {"out": out, "lse": lse, "q": q, "qkv": qkv, "path": path, "positions": positions, "nodes": nodes}
        sizes = {"q_stride": q.shape[1], "m": m, "T": path.shape[1], "NH": self._n_head}
        self._module.launch("attention_tree_forward", self._blocks(m), _THREADS, **arrays, **sizes)

    def backward(
        self, *, q: Array, qkv: Array, dqkv: Array, items: Array, sums: Array, partials: Array, **arrays: Array
    ) -> None:
        """Write dq, and columns C to 3C of dqkv for every key that has an item (key_work gives one to each node).

        From dout, out and lse, with path, positions and nodes as in forward. dq may be dqkv when q is qkv. items and
        sums are those of `key_work`; delta and partials are scratch, the latter at least n_slots * 2C floats.
        """
        m, C = self._queries(q, qkv, arrays["nodes"]), self._C
        assert arrays["dq"].shape == q.shape
        shared = {"q": q, "qkv": qkv, "q_stride": q.shape[1], "NH": self._n_head}
        sizes = {"m": m, "T": arrays["path"].shape[1]}
        self._module.launch("attention_tree_backward_q", self._blocks(m), _THREADS, **arrays, **shared, **sizes)
        shared |= {name: arrays[name] for name in ("dout", "lse", "delta")}
        work = {"items": items, "n_items": len(items), "partials": partials}
        self._module.launch(
            "attention_tree_backward_kv", self._blocks(len(items)), _THREADS, dqkv=dqkv, **work, **shared
        )
        if len(sums):
            grid = len(sums), -(-2 * C // _WARP)
            self._module.launch("attention_tree_sum", grid, _THREADS, dqkv=dqkv, partials=partials, sums=sums, C=C)

    def _queries(self, q: Array, qkv: Array, nodes: Array | None) -> int:
        """Return m."""
        m, width = q.shape
        assert width in (self._C, 3 * self._C)
        assert nodes is not None or m == len(qkv), "without `nodes` every node is a query"
        return int(m)

    def _blocks(self, groups_per_head: int) -> int:
        threads = groups_per_head * self._n_head * self._lanes
        assert threads < 2**31, "groups of threads are counted by an int"
        return -(-threads // _THREADS)


def key_work(
    ends: np.ndarray, queries: np.ndarray | None = None, *, chunk: int = CHUNK
) -> tuple[np.ndarray, np.ndarray]:
    """Return which queries see which key, in pieces of at most `chunk` queries, for the gradients of keys and values.

    ends (n,) int32 as in PrefixTree, for padding nodes too (their own number, or that plus one); queries (m,) int32:
    the nodes that are queries, ascending; None for all.

    items (n_items, 4) int32: key, first query, past the last one, slot; sums (n_sums, 3) int32: key, its first slot,
    past its last one; key -1 = nothing to do. An item whose slot is -1 writes the gradient of its key; the others write
    partial sums, rows of 2C floats, which `sums` adds in order.
    """
    keys = np.arange(len(ends))
    first, end = (keys, ends) if queries is None else (np.searchsorted(queries, at) for at in (keys, ends))
    pieces = np.maximum(1, -(-(end - first) // chunk))
    key = np.repeat(keys, pieces)
    piece = np.arange(len(key)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = first[key] + piece * chunk
    split = pieces > 1
    slots = np.where(split[key], np.cumsum(split[key]) - 1, -1)
    last_slots = np.cumsum(pieces[split])
    items = np.stack([key, starts, np.minimum(starts + chunk, end[key]), slots], axis=1)
    sums = np.stack([keys[split], last_slots - pieces[split], last_slots], axis=1)
    return items.astype(np.int32), sums.astype(np.int32)


def key_work_sizes(n: int, m: int, T: int, *, chunk: int = CHUNK) -> tuple[int, int, int]:
    """Return the most items, sums and slots that any tree of n nodes, m queries and T positions can need.

    The queries that see the keys at one position are m at most, all keys together: so at most m // (chunk + 1) keys
    there are split, and their pieces are at most m // chunk and one more for each of them.
    """
    n_sums = min(n, T * (m // (chunk + 1)))
    whole = T * (m // chunk)
    return n + whole, n_sums, n_sums and whole + n_sums
