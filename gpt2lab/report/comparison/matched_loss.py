"""Validation loss where the training loss is the same: settings that fit at different speeds, compared at equal fit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2lab.report.comparison.arms import Run
from gpt2lab.report.comparison.statistics import Difference, Estimate, difference_by_seed, estimate
from gpt2lab.report.comparison.trajectories import SMOOTHING_WINDOW, first_reaching, running_minimum, smoothed, value_at
from gpt2lab.report.inputs import Curve

TARGET_SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 0.0)  # of the way from the lowest common training loss to the highest
FEWEST = 3  # measurements of a training curve that is interpolated
VAL_METRIC = "val_loss"
RULE = (
    "Each run is read at the first step at which its {metric}, smoothed by a centred median of {window} measurements "
    "and made falling by its running minimum, is down to the target; values between measurements are interpolated. The "
    "targets are the lowest training loss that every run reached, and 1/16, 1/8, 1/4 and 1/2 of the way from it up to "
    "the highest that all of them passed."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedPoint:
    """One cell at one training loss."""

    step: Estimate  # at which its runs reach that loss, interpolated
    val: Estimate
    difference: Difference | None  # of val to the baseline's, by seed; None in the baseline or without a common seed


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedLoss:
    """Cells at several training losses that all of their runs pass."""

    train_metric: str
    targets: tuple[float, ...]  # falling; empty when there is none that all runs pass
    reason: str | None  # why there is none
    rule: str
    points: tuple[tuple[MatchedPoint | None, ...], ...]  # per cell, per target; None: a cell without a finished run


def matched_loss(cells: Sequence[Sequence[Run]], baseline: int) -> MatchedLoss:
    """Compare the runs of each cell with those of cell `baseline` where their training losses are equal.

    Curves that do not overlap are a result too: no targets, and the reason.
    """
    runs = [run for cell in cells for run in cell]
    evaluated = runs and all(len(run.inputs.curve("train_eval_loss")) >= FEWEST for run in runs)
    metric = "train_eval_loss" if evaluated else "train_loss"
    curves = {run.name: running_minimum(smoothed(run.inputs.curve(metric))) for run in runs}
    targets, reason = _targets(runs, curves, metric)
    found = [[_by_seed(cell, curves, target) for target in targets] for cell in cells]
    return MatchedLoss(
        train_metric=metric,
        targets=targets,
        reason=reason,
        rule=RULE.format(metric=metric, window=SMOOTHING_WINDOW),
        points=tuple(
            tuple(_point(values, found[baseline][index], own=c == baseline) for index, values in enumerate(row))
            for c, row in enumerate(found)
        ),
    )


def _targets(runs: Sequence[Run], curves: dict[str, Curve], metric: str) -> tuple[tuple[float, ...], str | None]:
    if not runs:
        return (), "no run finished"
    for run in runs:
        if len(curves[run.name]) < FEWEST:
            return (), f"{run.name} has fewer than {FEWEST} measurements of {metric}"
        if not len(run.inputs.curve(VAL_METRIC)):
            return (), f"{run.name} has no {VAL_METRIC}"
    # A target counts only where validation loss was measured around it.
    spans = [_span(curves[run.name], run.inputs.curve(VAL_METRIC)) for run in runs]
    if any(span is None for span in spans):
        return (), f"{metric} and {VAL_METRIC} were not measured over the same steps"
    low = max(span[0] for span in spans if span is not None)
    high = min(span[1] for span in spans if span is not None)
    if low >= high:
        return (), f"no overlap: the training losses of all {len(runs)} runs have no value in common"
    return tuple(dict.fromkeys(low + share * (high - low) for share in TARGET_SHARES)), None


def _span(train: Curve, val: Curve) -> tuple[float, float] | None:
    """Return the lowest and the highest training loss measured where validation loss was, too."""
    inside = train.values[(train.steps >= val.steps[0]) & (train.steps <= val.steps[-1])]
    return (float(inside.min()), float(inside.max())) if len(inside) else None


def _by_seed(cell: Sequence[Run], curves: dict[str, Curve], target: float) -> dict[int, tuple[float, float]]:
    """Return {seed: (step, validation loss)} of a cell at a training loss."""
    found = {}
    for run in cell:
        step = first_reaching(curves[run.name], target)
        val = None if step is None else value_at(run.inputs.curve(VAL_METRIC), step)
        if step is not None and val is not None:
            found[run.seed] = (step, val)
    return found


def _point(
    values: dict[int, tuple[float, float]], baseline: dict[int, tuple[float, float]], *, own: bool
) -> MatchedPoint | None:
    if not values:
        return None
    losses, of_baseline = ({seed: val for seed, (_, val) in found.items()} for found in (values, baseline))
    return MatchedPoint(
        step=estimate(np.array([step for step, _ in values.values()])),
        val=estimate(np.array(list(losses.values()))),
        difference=None if own else difference_by_seed(losses, of_baseline),
    )
