"""What an engine says about a spec before it is built: how it multiplies, what it computes and what it allocates."""

import math
from dataclasses import dataclass, field

import numpy as np

from gpt2lab.model.band_tiles import ProductTiles
from gpt2lab.model.flops import Counts

TokenBatch = tuple[np.ndarray, np.ndarray]  # inputs and targets, (B, T) int32 each


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One update: what its batch holds, and what of it is computed."""

    positions: int  # of the batch: B * T
    counts: Counts  # summed over its passes
    passes: int
    trees: int  # of the passes: those whose rows are nodes of a tree
    flop: int  # computed; see model/flops.py
    why_not_shared: str | None  # why no pass is a tree where rows are short enough for one; None: some are, or too long

    @property
    def flop_per_token(self) -> int:
        """Computed FLOP divided by all positions of the batch, to the nearest whole number."""
        return round(self.flop / self.positions)


@dataclass(frozen=True, slots=True)
class Slot:
    """One array of an arena."""

    group: str  # what it is for: parameters, activations ...
    shape: tuple[int, ...]
    dtype: np.dtype  # uint16 holds bfloat16
    offset: int  # bytes from the arena's start

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def kind(self) -> str:
        """The type of its values."""
        return "bfloat16" if self.dtype == np.uint16 else self.dtype.name


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Every array with its place in one piece of memory. `rows` and `counted_rows` are the largest pass that fits."""

    slots: dict[str, Slot]
    rows: int  # B*T of one pass
    counted_rows: int  # rows of logits in one pass
    n_bytes: int
    recomputation: dict[str, int] = field(default_factory=dict)  # {what backward could compute again: bytes it saves}

    def group_bytes(self) -> dict[str, int]:
        """Return {group: bytes}, in the arena's order."""
        totals: dict[str, int] = {}
        for slot in self.slots.values():
            totals[slot.group] = totals.get(slot.group, 0) + slot.n_bytes
        return totals


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """The answer of one engine."""

    device: str  # planned for; "cpu" where engine.device=auto would choose
    tiles: ProductTiles  # of the products of both MLP matrices
    why_dense: str  # what keeps the products of a band from being done by tiles, where they are not
    work: Work  # of the given batch; without one, of as many rows of which no two begin alike
    memory: MemoryPlan | None  # None: allocated step by step, and not planned


def bytes_in_words(n_bytes: int) -> str:
    """Return a number of bytes with its unit."""
    for exponent, unit in ((20, "MiB"), (10, "KiB")):
        if n_bytes >= 2**exponent:
            return f"{n_bytes / 2**exponent:,.1f} {unit}"
    return f"{n_bytes} B"
