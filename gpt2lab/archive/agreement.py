"""How far the metrics of two executions of one run agree: every row and column but the timings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpt2lab.record.columns import column
from gpt2lab.record.metrics import Row

Value = float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedValue:
    """One value that came out otherwise. None = not measured."""

    step: int
    column: str
    archived: Value
    reproduced: Value

    @property
    def relative(self) -> float:
        """The difference over the larger of the two values; infinite where only one of them is a finite number."""
        first, second = self.archived, self.reproduced
        if first is None or second is None or not (math.isfinite(first) and math.isfinite(second)):
            return math.inf
        return abs(first - second) / max(abs(first), abs(second))

    def __str__(self) -> str:
        return f"step {self.step}, {self.column}: archived {_shown(self.archived)}, now {_shown(self.reproduced)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What comparing two lists of rows gave."""

    n_rows: int  # rows that both have
    n_values: int  # values compared in them
    differences: tuple[ChangedValue, ...]  # by step, then in the order of the columns
    missing: tuple[int, ...]  # steps of archived rows that the reproduction does not have
    extra: tuple[int, ...]  # steps of rows that only the reproduction has

    @property
    def largest(self) -> ChangedValue | None:
        """The largest relative difference, the first of equals; None where nothing differs."""
        return max(self.differences, key=lambda difference: difference.relative, default=None)

    def verdict(self, tolerance: float) -> str:
        """Return identical, within tolerance or different; `tolerance` is relative, 0 allows no difference."""
        if self.missing or self.extra or not self.n_rows:
            return "different"
        if self.largest is None:
            return "identical"
        return "within tolerance" if self.largest.relative <= tolerance else "different"


def compare_rows(archived: Sequence[Row], reproduced: Sequence[Row], *, stopped: int | None = None) -> Agreement:
    """Compare rows by step. Two values are equal when they are the same number, both nan, or both not measured.

    Compared are the metrics that the archived run measured; a later version may measure more.
    `stopped` is the step at which the reproduction was ended early: what only the reproduction measured there
    belongs to the evaluation that ends a run, and is left out.
    """
    before, now = ({int(row["step"] or 0): row for row in rows} for rows in (archived, reproduced))
    measured = dict.fromkeys(name for row in archived for name, value in row.items() if value is not None)
    names = [name for name in measured if not column(name).timing]
    differences = []
    n_values = 0
    for step in sorted(before.keys() & now.keys()):
        for name in names:
            first, second = before[step].get(name), now[step].get(name)
            if first is None and (second is None or step == stopped):
                continue
            n_values += 1
            if not _equal(first, second):
                differences.append(ChangedValue(step=step, column=name, archived=first, reproduced=second))
    return Agreement(
        n_rows=len(before.keys() & now.keys()),
        n_values=n_values,
        differences=tuple(differences),
        missing=tuple(sorted(before.keys() - now.keys())),
        extra=tuple(sorted(now.keys() - before.keys())),
    )


def _equal(first: Value, second: Value) -> bool:
    if first is None or second is None:
        return first is second
    return first == second or (math.isnan(first) and math.isnan(second))


def _shown(value: Value) -> str:
    return "not measured" if value is None else repr(value)
