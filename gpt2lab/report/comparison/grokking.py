"""Grokking: when each run fits its training split, when it generalises, and a summary of each setting.

A run that did not reach an accuracy by its last step N is right-censored: it took "> N" steps.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from gpt2lab.record.values import is_number
from gpt2lab.report.analysis import ACCURACY_REACHED, DELAY_FACTOR, reached
from gpt2lab.report.comparison.statistics import Censored, censored_median
from gpt2lab.report.inputs import Curve, Inputs
from gpt2lab.report.summary import counts_every_position

LOST_BELOW = 0.9  # a validation accuracy that fell under it after it was reached has been lost
SETTLED = ("finished", "diverged")  # states in which a run counts as reaching an accuracy or not

Phase = Literal["memorised", "generalised at once", "delayed", "oscillating", "diverged", "not learned"]
PHASES: tuple[Phase, ...] = get_args(Phase)
RULE = (
    f"An accuracy counts as reached at the first evaluation of {ACCURACY_REACHED:g} or more. Memorised: training "
    f"reached it, validation never. Generalised at once: validation reached it in fewer than {DELAY_FACTOR:g} times "
    f"the steps training took, or without training reaching it. Delayed: {DELAY_FACTOR:g} times the steps or more. "
    f"Oscillating: validation reached it and a later evaluation was below {LOST_BELOW:g}, come back or not. "
    "Diverged: a loss was not finite. Not learned: neither reached it. A run that never got there by its last step N "
    "took > N steps, one that diverged never will; medians count them so (Kaplan and Meier)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrokkingRun:
    """One run. A step is None where the accuracy was not reached by `last_step`."""

    last_step: int  # of the last evaluation
    train_step: int | None
    val_step: int | None
    phase: Phase | None  # None: it did not end by itself, so what it would have become is open

    @property
    def delay(self) -> int | None:
        """Steps from fitting to generalising; None unless it did both."""
        return None if self.train_step is None or self.val_step is None else self.val_step - self.train_step

    @property
    def ratio(self) -> float | None:
        """Steps to generalise over steps to fit; None unless it did both, the latter after step 0."""
        return self.val_step / self.train_step if self.val_step is not None and self.train_step else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrokkingCell:
    """One setting; what needs a run that it does not have is None."""

    settled: int  # runs that finished or diverged
    success: int  # of those, validation accuracy reached
    train: Censored | None  # steps
    val: Censored | None
    delay: Censored | None  # of runs that fitted
    ratio: Censored | None
    phases: dict[Phase, int]  # of settled runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Grokking:
    """All settings of a sweep, by RULE."""

    bounds: tuple[tuple[str, float], ...]  # losses known without a model (nats), lowest first
    cells: tuple[GrokkingCell, ...]


def has_answers(inputs: Inputs) -> bool:
    """Whether an accuracy is the share of questions answered: only some positions count, or the data are rows."""
    answers = not counts_every_position(inputs) or bool(inputs.fact("provenance.data.row_len"))
    return answers and bool(len(inputs.curve("val_accuracy")))


def classify(train: Curve, val: Curve, *, diverged: bool = False) -> Phase:
    """Return the phase of a run with these accuracies, by RULE."""
    if diverged:
        return "diverged"
    fitted, generalised = reached(train), reached(val)
    if generalised is None:
        return "not learned" if fitted is None else "memorised"
    if (val.since(generalised).values < LOST_BELOW).any():
        return "oscillating"
    return "delayed" if fitted is not None and generalised >= DELAY_FACTOR * max(fitted, 1) else "generalised at once"


def read_grokking(inputs: Inputs, state: str) -> GrokkingRun:
    """Return the steps at which a run reached its accuracies, and its phase; `state` is the state of its job."""
    train, val = inputs.curve("train_accuracy"), inputs.curve("val_accuracy")
    steps = [curve.last[0] for curve in (train, val) if len(curve)]
    return GrokkingRun(
        last_step=max(steps, default=0),
        train_step=reached(train),
        val_step=reached(val),
        phase=classify(train, val, diverged=state == "diverged") if state in SETTLED else None,
    )


def grokking_cell(runs: Sequence[GrokkingRun]) -> GrokkingCell:
    """Return the summary of one setting; runs that did not end are right-censored."""
    settled = [run for run in runs if run.phase is not None]
    success = sum(run.val_step is not None for run in settled)
    fitted = [run for run in runs if run.train_step is not None]
    phases = Counter(run.phase for run in settled)
    return GrokkingCell(
        settled=len(settled),
        success=success,
        train=_censored([(run.train_step, _bound(run)) for run in runs]),
        val=_censored([(run.val_step, _bound(run)) for run in runs]),
        delay=_censored([(run.delay, _bound(run) - (run.train_step or 0)) for run in fitted]),
        ratio=_censored([(run.ratio, _bound(run) / run.train_step) for run in fitted if run.train_step]),
        phases={phase: phases[phase] for phase in PHASES if phases[phase]},
    )


def _bound(run: GrokkingRun) -> float:
    """Return what a time that was not reached is known to exceed."""
    return math.inf if run.phase == "diverged" else run.last_step


def _censored(times: Sequence[tuple[float | None, float]]) -> Censored | None:
    """Return the median of (time or None, bound)."""
    if not times:
        return None
    values = [bound if time is None else time for time, bound in times]
    return censored_median(np.array(values), np.array([time is not None for time, _ in times]))


def known_bounds(inputs: Inputs) -> tuple[tuple[str, float], ...]:
    """Return the validation losses that are known without a model (nats), lowest first, those that the record has."""
    found: list[tuple[str, Any]] = [
        ("best reachable loss", inputs.fact("provenance.model.best_val_loss")),
        ("random guess over the vocabulary", inputs.fact("provenance.model.random_guess_loss")),
    ]
    choices = inputs.fact("provenance.data.answer_choices")
    if choices is None and inputs.fact("provenance.data.name") == "modular":
        choices = inputs.fact("config.data.prime")  # older records do not state the choices
    # Where more than the answer counts, a guess among the answers is no bound of the loss.
    if not counts_every_position(inputs) and is_number(choices) and choices > 1:
        found.append((f"ln {choices}, a uniform guess among the answers", math.log(choices)))
    told = [(name, float(loss)) for name, loss in found if isinstance(loss, int | float) and math.isfinite(loss)]
    return tuple(sorted(told, key=lambda bound: bound[1]))


def grokking(cells: Sequence[Sequence[tuple[Inputs, str]]]) -> Grokking | None:
    """Summarise (inputs, state) of the runs of each cell; None where their data ask no questions.

    A bound is named where all runs have the same.
    """
    inputs = [run for cell in cells for run, _ in cell]
    if not any(has_answers(run) for run in inputs):
        return None
    bounds = [known_bounds(run) for run in inputs]
    return Grokking(
        bounds=tuple(bound for bound in bounds[0] if all(bound in others for others in bounds)),
        cells=tuple(grokking_cell([read_grokking(*run) for run in cell]) for cell in cells),
    )
