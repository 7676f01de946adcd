"""Rows that begin alike, as a tree: one node for each distinct prefix of the rows of a batch.

Nodes are numbered in preorder: a node comes before its descendants, and those directly behind it. So the nodes below
node j, itself included, are j ... ends[j] - 1, which is what gradients of keys and values are summed over.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixTree:
    """A pass over distinct prefixes: n nodes, m of them counted, p distinct pairs of a counted node and a target.

    Row q of the logits is that of node counted[q]; its targets are targets[pair_begins[q]:pair_begins[q+1]], each as
    often as `counts` says.
    """

    tokens: np.ndarray  # (n,) int32
    positions: np.ndarray  # (n,) int32: how many nodes are above it
    path: np.ndarray  # (n, T) int32: the node's ancestors from the root to itself, then itself again
    ends: np.ndarray  # (n,) int32: past the last node below it
    counted: np.ndarray  # (m,) int32, ascending
    pair_begins: np.ndarray  # (m + 1,) int32
    targets: np.ndarray  # (p,) int32, ascending within a counted node
    counts: np.ndarray  # (p,) int32, how many rows have the pair
    trims_last: bool  # the last layer computes no more than keys and values away from the counted nodes

    @property
    def n_nodes(self) -> int:
        return len(self.tokens)

    @property
    def n_counted(self) -> int:
        """Targets in the loss of this pass, each as often as rows have it."""
        return int(self.counts.sum())

    @property
    def pair_rows(self) -> np.ndarray:
        """Return which row of the logits each pair belongs to, (p,) int32."""
        return np.repeat(np.arange(len(self.counted), dtype=np.int32), np.diff(self.pair_begins))


def build_tree(
    inputs: np.ndarray, targets: np.ndarray, counted: np.ndarray | None, *, trims_last: bool = False
) -> PrefixTree:
    """Build the tree of the rows `inputs` (B, T) int, whose targets at positions `counted` (n,) are `targets` (B, n).

    Without `counted`, targets are (B, T).
    """
    T = inputs.shape[1]
    order = np.lexsort(inputs.T[::-1])
    rows = inputs[order]
    differs = np.ones(rows.shape, dtype=bool)
    # A row's prefix up to t is new where it differs from the row before at t or earlier.
    differs[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    row_of_node, positions = np.nonzero(differs)  # row by row, each from its first new position on: preorder
    number = np.cumsum(differs).reshape(rows.shape) - 1
    first = np.maximum.accumulate(np.where(differs, np.arange(len(rows))[:, None], 0), axis=0)
    node_of = number[first, np.arange(T)]  # (B, T) the node of each position of each row
    path = node_of[row_of_node]
    nodes = np.arange(len(positions))
    path = np.where(np.arange(T) <= positions[:, None], path, nodes[:, None])

    at = np.arange(T) if counted is None else counted
    counted_nodes, pair_begins, pair_targets, counts = _count_pairs(node_of[:, at], targets[order])
    return PrefixTree(
        tokens=rows[differs].astype(np.int32),
        positions=positions.astype(np.int32),
        path=path.astype(np.int32),
        ends=_ends(positions),
        counted=counted_nodes,
        pair_begins=pair_begins,
        targets=pair_targets,
        counts=counts,
        trims_last=trims_last,
    )


def _count_pairs(nodes: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return counted nodes, where each one's pairs begin, and the pairs' targets and counts, all int32."""
    span = int(targets.max()) + 1
    pairs, counts = np.unique(nodes.astype(np.int64).ravel() * span + targets.ravel(), return_counts=True)
    pair_nodes, pair_targets = np.divmod(pairs, span)
    counted, begins = np.unique(pair_nodes, return_index=True)
    found = (counted, np.append(begins, len(pairs)), pair_targets, counts)
    return tuple(array.astype(np.int32) for array in found)  # type: ignore[return-value]


def _ends(positions: np.ndarray) -> np.ndarray:
    """Return, for each node of a preorder, the next node that is no deeper than it, int32."""
    n = len(positions)
    ends = np.empty(n, dtype=np.int32)
    for depth in np.unique(positions):
        above = np.flatnonzero(positions <= depth)
        here = np.flatnonzero(positions == depth)
        ends[here] = np.append(above, n)[np.searchsorted(above, here, side="right")]
    return ends
