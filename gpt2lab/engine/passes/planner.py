"""What one pass through the model must compute, and no more: rows cut where nothing follows that counts, or a tree.

A causal model computes at a position what depends on the tokens up to there and on nothing else. So positions after
the last counted one need not be computed; in the last layer only keys and values are needed away from the counted
positions; and rows that begin alike have the same activations for as long as they do. Loss and gradients agree with
those of the whole computation up to floating-point rounding. Shapes: B sequences, T positions.
"""

from dataclasses import dataclass

import numpy as np

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.passes.prefix_tree import PrefixTree, build_tree

# A node takes longer than a position of a row, because its attention gathers scattered keys and values: by this share
# for each position of a row, with some margin. On a CPU `python tools/bench.py sharing` measured 0.011 and less at 128
# channels; on a card it never was.
EXTRA_PER_POSITION = 1 / 80
LONGEST_SHARED = 32  # positions; longer rows are texts, and those begin differently
# PyTorch has embedding_bag there from 2.10 on (https://github.com/pytorch/pytorch/pull/162270); not tried on one.
NEVER_SHARED_ON = ("mps",)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowPass:
    """A pass over rows as they are, without what follows the last counted position."""

    tokens: np.ndarray  # (B, T) int32
    targets: np.ndarray  # (B, n) int32, those at the counted positions
    counted: np.ndarray | None  # (n,) int32 ascending; None = all T positions
    trims_last: bool  # the last layer computes no more than keys and values away from the counted positions

    @property
    def n_counted(self) -> int:
        """Targets in the loss of this pass."""
        return self.targets.size


Pass = RowPass | PrefixTree


class PassPlanner:
    """Turns batches into passes. A batch that comes again as the same read-only arrays is planned once.

    `counted`: target positions in the loss, ascending, None for all. `skip_uncounted` cuts rows and trims the last
    layer; `share_prefixes` builds trees of rows of up to LONGEST_SHARED positions where that saves enough.
    """

    def __init__(self, counted: tuple[int, ...] | None, *, skip_uncounted: bool, share_prefixes: bool) -> None:
        assert counted != (), "no position counts"
        self._counted = None if counted is None else np.array(counted, dtype=np.int32)
        self._skip_uncounted, self._share_prefixes = skip_uncounted, share_prefixes
        self._last: tuple[np.ndarray, np.ndarray, int, list[Pass]] | None = None

    def passes(self, inputs: np.ndarray, targets: np.ndarray, micro_batch_size: int) -> list[Pass]:
        """Return the passes of one batch, (B, T) int32 each, in order; each takes up to `micro_batch_size` rows."""
        comes_again = not (inputs.flags.writeable or targets.flags.writeable)
        if self._last is not None and comes_again:
            known_inputs, known_targets, size, passes = self._last
            if inputs is known_inputs and targets is known_targets and size == micro_batch_size:
                return passes
        passes = [
            self._plan(inputs[first : first + micro_batch_size], targets[first : first + micro_batch_size])
            for first in range(0, len(inputs), micro_batch_size)
        ]
        if comes_again:
            self._last = (inputs, targets, micro_batch_size, passes)
        return passes

    def _plan(self, inputs: np.ndarray, targets: np.ndarray) -> Pass:
        counted = self._counted
        counted_targets = targets if counted is None else np.ascontiguousarray(targets[:, counted])
        trims_last = self._skip_uncounted and counted is not None
        if trims_last:
            assert counted is not None
            inputs = np.ascontiguousarray(inputs[:, : counted[-1] + 1])
        B, T = inputs.shape
        if self._share_prefixes and T <= LONGEST_SHARED:
            tree = build_tree(inputs, counted_targets, counted, trims_last=trims_last)
            if tree.n_nodes * (1 + EXTRA_PER_POSITION * T) <= B * T:
                return tree
        return RowPass(tokens=inputs, targets=counted_targets, counted=counted, trims_last=trims_last)


def planner_of(spec: EngineSpec, device: str) -> PassPlanner:
    """Return the planner of an engine of `spec` that computes on `device`."""
    return PassPlanner(
        spec.counted,
        skip_uncounted=spec.engine.skip_uncounted,
        share_prefixes=spec.engine.share_prefixes and device not in NEVER_SHARED_ON,
    )
