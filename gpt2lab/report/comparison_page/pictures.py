"""Which figures a sweep's page has, and what goes into each."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt2lab.record.columns import column
from gpt2lab.report import numbers
from gpt2lab.report.analysis import ACCURACY_REACHED
from gpt2lab.report.canvas import Picture, keep
from gpt2lab.report.comparison.compare import ArmResult
from gpt2lab.report.comparison.costs import tokens_per_s
from gpt2lab.report.comparison.grokking import Grokking, GrokkingCell
from gpt2lab.report.comparison.sweep_cells import Cell
from gpt2lab.report.comparison.sweep_results import SweepResults
from gpt2lab.report.comparison.trajectories import split_gap
from gpt2lab.report.comparison_page.arm_figures import HeatmapCell, Setting, draw_differences, draw_factor, draw_heatmap
from gpt2lab.report.comparison_page.curves_figure import Series, draw_gap, draw_metric
from gpt2lab.report.comparison_page.grokking_figure import SplitSeries, draw_splits
from gpt2lab.report.comparison_page.words import spread
from gpt2lab.report.inputs import Curve, Inputs

FILES = ("differences.svg", "factor.svg", "steps.svg", "grid.svg", "curves.svg", "accuracy.svg", "loss.svg", "gap.svg")
_MOST_PANEL_COLUMNS = 4
DENSE = (("fc1_band", "0"), ("fc2_band", "0"))


def draw_pictures(results: SweepResults, summary: dict[str, Any], folder: Path) -> list[Picture]:
    """Write every figure that these results can fill into `folder`, and remove those they cannot."""
    if results.grokking is not None:
        drawn = [_forest(results, folder), _grid(results, folder), *_splits(results, results.grokking, folder)]
    else:
        drawn = [_forest(results, folder), _factor(results, folder), _grid(results, folder)]
        drawn += [_curves(results, summary, folder), draw_gap(_series(results, split_gap), folder)]
    return keep(drawn, folder, FILES)


def _series(results: SweepResults, curve: Callable[[Inputs], Curve]) -> list[Series]:
    """Return a curve of every cell that has a finished run, the baseline's first."""
    base = results.cells[results.baseline]
    cells = [base, *(cell for cell in results.cells if cell is not base)]
    return [
        Series(label=cell.label, curves=tuple(curve(run.inputs) for run in cell.finished))
        for cell in cells
        if cell.finished
    ]


def _forest(results: SweepResults, folder: Path) -> Picture | None:
    if results.comparison is None:
        return None
    arms = [(cell.label, row) for cell, row in results.arms]
    return draw_differences(arms, results.comparison, folder, baseline=arms[results.baseline][0])


def _factor(results: SweepResults, folder: Path) -> Picture | None:
    """Draw metric and speed by the one factor that varies; None where several do."""
    factors = list(results.cells[0].settings)
    if len(factors) != 1 or results.comparison is None:
        return None
    [factor], settings = factors, []
    for cell, row in results.arms:
        if row is not None:
            speeds = [tokens_per_s(run) for run in cell.finished]
            token_us = tuple(1e6 / speed for speed in speeds if speed) if all(speeds) else ()
            label = "dense" if (factor, cell.settings[factor]) in DENSE else cell.settings[factor]
            settings.append(Setting(label=label, metric=tuple(row.by_seed.values()), token_us=token_us))
    metric, untimed = column(results.metric), results.costs.untimed
    return draw_factor(settings, folder, factor=factor, metric=metric.label, unit=metric.unit, untimed=untimed)


def _curves(results: SweepResults, summary: dict[str, Any], folder: Path) -> Picture | None:
    metric = "val_loss" if column(results.metric).timing else results.metric
    names = {"reachable_val_loss": "best reachable", "random_guess_loss": "uniform guess"}
    lines = [(name, summary.get(key)) for key, name in names.items()] if metric == "val_loss" else []
    references = [(name, value) for name, value in lines if value is not None]
    return draw_metric(_series(results, lambda inputs: inputs.curve(metric)), folder, metric, references)


def _splits(results: SweepResults, found: Grokking, folder: Path) -> list[Picture | None]:
    """Draw accuracy and loss of both splits, a panel per arm."""
    cells = [cell for cell in results.cells if cell.finished]

    def draw(train: str, val: str, **how: Any) -> Picture | None:
        arms = [
            SplitSeries(
                label=cell.label,
                train=Series(label="training", curves=tuple(run.inputs.curve(train) for run in cell.finished)),
                val=Series(label="validation", curves=tuple(run.inputs.curve(val) for run in cell.finished)),
            )
            for cell in cells
        ]
        return draw_splits(arms, folder, columns=_panel_columns(results, len(cells)), **how)

    what, threshold = "Accuracy at counted positions", ("threshold", ACCURACY_REACHED)
    return [
        draw("train_accuracy", "val_accuracy", file="accuracy.svg", what=what, lines=[threshold], accuracy=True),
        draw("train_eval_loss", "val_loss", file="loss.svg", what="Loss (nats per counted token)", lines=found.bounds),
    ]


def _panel_columns(results: SweepResults, finished: int) -> int:
    """Panels side by side: those of one row of a full grid of two factors, else three, or two for few arms."""
    sides = _sides(results)
    if len(sides) == 2 and finished == math.prod(sides) and 1 < sides[1] <= _MOST_PANEL_COLUMNS:
        return sides[1]
    return 2 if finished in (2, 4) else 3


def _sides(results: SweepResults) -> list[int]:
    """Return how many settings each factor has."""
    return [len(set(settings)) for settings in zip(*(cell.settings.values() for cell in results.cells), strict=True)]


def _grid(results: SweepResults, folder: Path) -> Picture | None:
    """Draw the arms as a grid; None unless exactly two factors vary."""
    sides = _sides(results)
    if len(sides) != 2 or min(sides) < 2:
        return None
    first, second = results.cells[0].settings
    plan = [(cell.settings[first], cell.settings[second]) for cell in results.cells]
    if results.grokking is not None:
        cells = dict(zip(plan, map(_steps_cell, results.grokking.cells), strict=True))
        what = f"Median steps to validation accuracy {ACCURACY_REACHED:g}, and how many seeds reached it"
        look = {"file": "steps.svg", "what": what, "darker": "later; grey: not reached by step N"}
    elif results.comparison is not None:
        cells = dict(zip(plan, (_metric_cell(*arm, results.metric) for arm in results.arms), strict=True))
        what = f"{column(results.metric).label} at step {results.comparison.step:,}, mean ± std over seeds"
        look = {"file": "grid.svg", "what": what, "darker": "higher"}
    else:
        return None
    return draw_heatmap(cells, folder, factors=(first, second), **look)


def _steps_cell(cell: GrokkingCell) -> HeatmapCell:
    if cell.val is None:
        return HeatmapCell(absent="no finished run")
    text = cell.val.median_text(numbers.count)
    return HeatmapCell(value=cell.val.median, text=text, note=f"{cell.success} of {cell.settled}")


def _metric_cell(cell: Cell, row: ArmResult | None, metric: str) -> HeatmapCell:
    if row is None:
        return HeatmapCell(absent=cell.absent)
    mean, std = row.estimate.mean, row.estimate.std
    return HeatmapCell(value=mean, text=numbers.formatter(metric)(mean), note="" if std is None else f"± {spread(std)}")
