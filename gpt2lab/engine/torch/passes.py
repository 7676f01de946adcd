"""A pass on its device: what the model asks of one, of rows and of a tree alike.

`tokens` and `at_positions` are what is embedded; `at_counted` picks what the loss needs; `attend` is attention, for
queries everywhere or (`trimmed`) at what is counted; `targets` belong to the logits there.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2lab.engine.passes import Pass, PassPlanner, PrefixTree
from gpt2lab.engine.torch.targets import Targets
from gpt2lab.engine.torch.tree_attention import SeenNodes, attend_tree


class DeviceRows:
    """Rows as they are: activations (B, T, C), logits (B, n, V)."""

    def __init__(
        self, tokens: Tensor, targets: Tensor | None = None, counted: Tensor | None = None, *, trims_last: bool = False
    ) -> None:
        """tokens (B, T), counted (n,) ascending positions, None for all n = T, targets (B, n): int64.

        With `trims_last` the rows must end at the last counted position.
        """
        T = tokens.shape[1]
        self.tokens, self._counted = tokens, counted
        self.targets = None if targets is None else Targets(targets.flatten())
        self.trims_last = trims_last and counted is not None and len(counted) < T
        self._sees: Tensor | None = None  # (n, T) bool, for trimmed queries; None: they see everything
        if self.trims_last and counted is not None and len(counted) > 1:
            self._sees = torch.arange(T, device=tokens.device) <= counted[:, None]

    def at_positions(self, wpe: Tensor) -> Tensor:
        """Return the rows of wpe that are added to the tokens', (T, C)."""
        return wpe[: self.tokens.shape[1]]

    def at_counted(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, n, C)."""
        return x if self._counted is None else x.index_select(1, self._counted)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n_head: int, *, trimmed: bool) -> Tensor:
        """q: (B, T or n, C), k and v: (B, T, C); returns q's shape."""
        q_heads, k_heads, v_heads = (part.view(*part.shape[:2], n_head, -1).transpose(1, 2) for part in (q, k, v))
        sees = self._sees if trimmed else None
        y = F.scaled_dot_product_attention(q_heads, k_heads, v_heads, attn_mask=sees, is_causal=not trimmed)
        return y.transpose(1, 2).reshape(q.shape)  # from (B, NH, T or n, HS)

    @property
    def n_counted(self) -> int:
        """Targets in the loss."""
        assert self.targets is not None
        return len(self.targets.tokens)


class Tree:
    """Distinct prefixes as nodes: activations (n, C), logits (m, V) at counted nodes; tensors of a PrefixTree."""

    def __init__(self, tree: PrefixTree, n_head: int, device: torch.device) -> None:
        def upload(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array.astype(np.int64)).to(device)

        self.tokens, self._positions, self._counted = (
            upload(array) for array in (tree.tokens, tree.positions, tree.counted)
        )
        self.targets = Targets(upload(tree.targets), upload(tree.pair_rows), upload(tree.counts))
        self.n_counted = tree.n_counted
        self._counts_everything = len(tree.counted) == tree.n_nodes
        self.trims_last = tree.trims_last and not self._counts_everything
        self._seen = {False: SeenNodes(tree, np.arange(tree.n_nodes), n_head, device)}
        if self.trims_last:
            self._seen[True] = SeenNodes(tree, tree.counted, n_head, device)

    def at_positions(self, wpe: Tensor) -> Tensor:
        """Return the rows of wpe that are added to the tokens', (n, C)."""
        return F.embedding(self._positions, wpe)

    def at_counted(self, x: Tensor) -> Tensor:
        """(n, C) to (m, C)."""
        return x if self._counts_everything else x.index_select(0, self._counted)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n_head: int, *, trimmed: bool) -> Tensor:
        """q: (n or m, C), k and v: (n, C); returns q's shape."""
        return attend_tree(q, k, v, self._seen[trimmed], n_head)


class TorchPlanner:
    """PassPlanner, with the passes' tensors on a device.

    They are made when their turn comes, so that micro-batches bound the memory of the device. The one pass of a batch
    that comes again is kept.
    """

    def __init__(self, planner: PassPlanner, *, n_head: int, device: torch.device) -> None:
        self._planner, self._n_head, self._device = planner, n_head, device
        self._last: tuple[list[Pass], DeviceRows | Tree] | None = None

    def passes(self, inputs: np.ndarray, targets: np.ndarray, micro_batch_size: int) -> Iterator[DeviceRows | Tree]:
        """Yield the passes of one batch, (B, T) int32 each, in order; each takes up to `micro_batch_size` rows."""
        planned = self._planner.passes(inputs, targets, micro_batch_size)
        if self._last is not None and self._last[0] is planned:
            yield self._last[1]
            return
        for part in planned:
            converted = self._convert(part)
            if len(planned) == 1 and not (inputs.flags.writeable or targets.flags.writeable):
                self._last = planned, converted
            yield converted

    def _convert(self, part: Pass) -> DeviceRows | Tree:
        if isinstance(part, PrefixTree):
            return Tree(part, self._n_head, self._device)
        tokens, targets, counted = (
            None if array is None else torch.from_numpy(array.astype(np.int64)).to(self._device)
            for array in (part.tokens, part.targets, part.counted)
        )
        assert tokens is not None
        return DeviceRows(tokens, targets, counted, trims_last=part.trims_last)
