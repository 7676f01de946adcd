"""What a setting costs: steps, seconds and FLOP to the loss that every run reaches, and the speed of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpt2lab.report.comparison.arms import HARDWARE, Run, differing
from gpt2lab.report.comparison.statistics import Estimate, estimate, noise_floor
from gpt2lab.report.comparison.trajectories import first_reaching, outside_share, seconds_at
from gpt2lab.report.inputs import flop_per_token
from gpt2lab.report.summary import median_speed

METRIC = "val_loss"
UNEVEN = 0.1  # spread of the speed of runs of equal config, as a share, from which times say more about the machine
RULE = (
    "The target is the lowest validation loss that every finished run reached. A run is there at the first step at "
    "which the line through its evaluations is; seconds are training time, evaluation not counted; FLOP are "
    "training tokens times FLOP per token: dense (6N + 12LCT), or computed in the first update. "
    "Tokens/s is the median of the logged rows, the first tenth of them left out; {speeds}."
)
AGAINST_BASELINE = "time per token is the additional one against the baseline, not tested: "


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCost:
    """One cell: means over its finished runs, None where a record does not tell."""

    step: Estimate | None  # to the target
    seconds: Estimate | None  # None where times are not compared
    flop_dense: Estimate | None
    flop_computed: Estimate | None  # without what was left out
    tokens_per_s: Estimate | None
    outside: Estimate | None  # share of the time from start to end that was not training steps
    overhead: float | None  # 0.08: 8 % more time per token than the baseline; None there and on other hardware


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """All cells, to one validation loss."""

    target: float | None  # None: there is none
    reason: str | None  # why there is none
    untimed: str | None  # why some cells have no seconds beside those of the baseline
    rule: str
    cells: tuple[ArmCost | None, ...]  # None: no finished run


def costs(cells: Sequence[Sequence[Run]], baseline: int) -> Costs:
    """Return what each cell costs, compared with cell `baseline`."""
    reference = cells[baseline] or next(filter(None, cells), ())
    runs = [*reference, *(run for cell in cells for run in cell)]
    target, reason = _target(runs)
    alike = [not any(differing(runs[0], run, HARDWARE) for run in (*reference, *cell)) for cell in cells]
    uneven = _speed_spread(cells)
    untimed = _why_untimed(runs, uneven)
    if untimed is not None and all(alike):
        alike = [False] * len(cells)
    speeds = "how far speeds of runs of equal config spread is not known, as no setting has two"
    if uneven is not None:
        speeds = f"speeds of runs of equal config spread by {uneven:.1%}"
    return Costs(
        target=target,
        reason=reason,
        untimed=untimed,
        rule=RULE.format(speeds=AGAINST_BASELINE * (len(cells) > 1) + speeds),
        cells=tuple(
            _cost(cell, () if index == baseline else cells[baseline], target, alike=alike[index])
            for index, cell in enumerate(cells)
        ),
    )


def _speed_spread(cells: Sequence[Sequence[Run]]) -> float | None:
    """Return the pooled standard deviation of log tokens/s within cells; None where no cell has two runs."""
    spread = noise_floor(
        np.log(speeds)
        for cell in cells
        if len(speeds := [speed for run in cell if (speed := tokens_per_s(run)) is not None and speed > 0]) > 1
    )
    return None if spread is None else spread.std


def _why_untimed(runs: Sequence[Run], uneven: float | None) -> str | None:
    """Say why times are not compared: other hardware, or a machine that was not equally busy."""
    hardware = next(filter(None, (differing(runs[0], run, HARDWARE) for run in runs)), None)
    if hardware:
        return f"not timed against each other: other hardware ({'; '.join(hardware)})"
    if uneven is None or uneven <= UNEVEN:
        return None
    return (
        f"not timed against each other: the speeds of runs of equal config spread by {uneven:.0%} (rule: above "
        f"{UNEVEN:.0%}), so the machine was not equally busy"
    )


def _target(runs: Sequence[Run]) -> tuple[float | None, str | None]:
    if not runs:
        return None, "no run finished"
    for run in runs:
        if not len(run.inputs.curve(METRIC)):
            return None, f"{run.name} has no {METRIC}"
    target = max(run.inputs.curve(METRIC).best()[1] for run in runs)
    for run in runs:
        if run.inputs.curve(METRIC).values[0] <= target:  # it began there: no cost of getting there to speak of
            return None, f"no loss that every run comes down to: {run.name} began at or below the best of another"
    return target, None


def _cost(cell: Sequence[Run], baseline: Sequence[Run], target: float | None, *, alike: bool) -> ArmCost | None:
    """Return the cost of a cell; `alike`: all of its runs and of the baseline's are of one hardware."""
    if not cell:
        return None
    steps = [None if target is None else first_reaching(run.inputs.curve(METRIC), target) for run in cell]

    def to_target(measure: Callable[[Run, float], float | None]) -> Estimate | None:
        return _mean([None if step is None else measure(run, step) for run, step in zip(cell, steps, strict=True)])

    speed, reference = (_mean([tokens_per_s(run) for run in runs]) for runs in (cell, baseline))
    return ArmCost(
        step=_mean(steps),
        seconds=to_target(lambda run, step: seconds_at(run.inputs, step)) if alike else None,
        flop_dense=to_target(lambda run, step: _flop(run, step, "dense")),
        flop_computed=to_target(lambda run, step: _flop(run, step, "computed")),
        tokens_per_s=speed,
        outside=_mean([outside_share(run.inputs) for run in cell]),
        overhead=reference.mean / speed.mean - 1 if alike and reference and speed and speed.mean else None,
    )


def _mean(values: Sequence[float | None]) -> Estimate | None:
    """Return the estimate over all runs of a cell; None where one of them does not tell, so that n is the cell's."""
    told = [value for value in values if value is not None and np.isfinite(value)]
    return estimate(np.array(told)) if told and len(told) == len(values) else None


def tokens_per_s(run: Run) -> float | None:
    """Return the speed of a run, the median of its logged rows."""
    return median_speed(run.inputs.curve("tokens_per_s"))


def _flop(run: Run, step: float, kind: Literal["dense", "computed"]) -> float | None:
    flop, tokens = flop_per_token(run.inputs, kind), run.inputs.fact("provenance.model.tokens_per_step")
    return None if flop is None or tokens is None else step * tokens * flop
