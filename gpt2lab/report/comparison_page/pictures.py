"""Which figures a sweep's page has, and what goes into each."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gpt2lab.record.columns import column
from gpt2lab.report import numbers
from gpt2lab.report.canvas import Picture
from gpt2lab.report.comparison.arms import Run
from gpt2lab.report.comparison.compare import ArmResult, Comparison
from gpt2lab.report.comparison.costs import tokens_per_s
from gpt2lab.report.comparison.sweep_results import SweepResults
from gpt2lab.report.comparison.trajectories import gap
from gpt2lab.report.comparison_page.curves_figure import draw_curves, draw_gap
from gpt2lab.report.comparison_page.factor_figure import FILE as FACTOR
from gpt2lab.report.comparison_page.factor_figure import Setting, draw_factor
from gpt2lab.report.comparison_page.forest_figure import ForestRow, draw_forest
from gpt2lab.report.comparison_page.grokking_figure import SplitSeries, draw_splits
from gpt2lab.report.comparison_page.heatmap_figure import HeatmapCell, HeatmapGrid, draw_heatmap
from gpt2lab.report.comparison_page.series import Series
from gpt2lab.report.comparison_page.words import spread
from gpt2lab.report.inputs import Curve

FILES = ("differences.svg", FACTOR, "steps.svg", "grid.svg", "accuracy.svg", "loss.svg", "curves.svg", "gap.svg")
_MOST_PANEL_COLUMNS = 4
DENSE = (("fc1_band", "0"), ("fc2_band", "0"))


def draw_pictures(results: SweepResults, summary: dict[str, Any], folder: Path) -> list[Picture]:
    """Write every figure that these results can fill into `folder`, and remove those they cannot."""
    folder.mkdir(exist_ok=True)
    drawn: list[Picture | None] = [_forest(results, folder), _grid(results, folder)]
    if results.grokking is not None:
        drawn += [_accuracy(results, folder), _losses(results, folder)]
    else:
        drawn += [_factor(results, folder), _curves(results, summary, folder), _gap(results, folder)]
    pictures = [picture for picture in drawn if picture is not None]
    for file in set(FILES) - {picture.file for picture in pictures}:
        (folder / file).unlink(missing_ok=True)
    return pictures


def baseline_first(results: SweepResults) -> list[int]:
    """Return the indices of the cells that have a finished run, the baseline's first."""
    order = [results.baseline, *(i for i in range(len(results.cells)) if i != results.baseline)]
    return [index for index in order if results.cells[index].finished]


def _series(results: SweepResults, curve: Callable[[Run], Curve]) -> list[Series]:
    cells = [results.cells[index] for index in baseline_first(results)]
    return [Series(label=cell.label, curves=tuple(curve(run) for run in cell.finished)) for cell in cells]


def _forest(results: SweepResults, folder: Path) -> Picture | None:
    if results.comparison is None:
        return None
    labels = [cell.label for cell in results.cells]
    arms = list(zip(labels, results.rows, strict=True))
    return draw_differences(arms, results.comparison, folder, baseline=labels[results.baseline])


def draw_differences(
    arms: Iterable[tuple[str, ArmResult | None]], comparison: Comparison, folder: Path, *, baseline: str
) -> Picture | None:
    """Write differences.svg of labelled arms that were compared with the baseline; None without any."""
    rows = [
        ForestRow(
            label=label,
            difference=row.difference.mean,
            interval=row.corrected_interval,
            verdict=row.judgement.verdict,
            pairs=row.difference.n,
        )
        for label, row in arms
        if row is not None and row.difference is not None and row.judgement is not None
    ]
    return draw_forest(
        rows,
        folder,
        metric=column(comparison.metric).label,
        baseline=baseline,
        floor=None if comparison.floor is None else comparison.floor.std,
        higher_is_better=comparison.higher_is_better,
    )


def _factor(results: SweepResults, folder: Path) -> Picture | None:
    """Draw metric and speed by the one factor that varies; None where several do."""
    factors = list(results.cells[0].settings)
    if len(factors) != 1 or results.comparison is None:
        return None
    settings = []
    for cell, row in zip(results.cells, results.rows, strict=True):
        if row is None:
            continue
        speeds = [tokens_per_s(run) for run in cell.finished]
        setting = cell.settings[factors[0]]
        settings.append(
            Setting(
                label="dense" if (factors[0], setting) in DENSE else setting,
                metric=tuple(row.by_seed.values()),
                token_us=tuple(1e6 / speed for speed in speeds if speed) if all(speeds) else (),
            )
        )
    return draw_factor(
        settings,
        folder,
        factor=factors[0],
        metric=column(results.metric).label,
        unit=column(results.metric).unit,
        untimed=results.costs.untimed,
    )


def _curves(results: SweepResults, summary: dict[str, Any], folder: Path) -> Picture | None:
    metric = "val_loss" if column(results.metric).timing else results.metric
    names = {"reachable_val_loss": "best reachable", "random_guess_loss": "uniform guess"}
    lines = [(name, summary.get(key)) for key, name in names.items()] if metric == "val_loss" else []
    return draw_curves(
        _series(results, lambda run: run.inputs.curve(metric)),
        folder,
        file="curves.svg",
        what=column(metric).label,
        unit=column(metric).unit,
        show=numbers.formatter(metric),
        references=[(name, value) for name, value in lines if value is not None],
    )


def _gap(results: SweepResults, folder: Path) -> Picture | None:
    return draw_gap(_series(results, gap_curve), folder)


def gap_curve(run: Run) -> Curve:
    """Validation minus training loss of a run."""
    return gap(run.inputs.curve("train_eval_loss"), run.inputs.curve("val_loss"))


def _splits(results: SweepResults, train: str, val: str) -> list[SplitSeries]:
    return [
        SplitSeries(
            label=cell.label,
            train=Series(label="training", curves=tuple(run.inputs.curve(train) for run in cell.finished)),
            val=Series(label="validation", curves=tuple(run.inputs.curve(val) for run in cell.finished)),
        )
        for cell in results.cells
        if cell.finished
    ]


def _accuracy(results: SweepResults, folder: Path) -> Picture | None:
    assert results.grokking is not None
    threshold = results.grokking.threshold
    return draw_splits(
        _splits(results, "train_accuracy", "val_accuracy"),
        folder,
        file="accuracy.svg",
        what="Accuracy at counted positions",
        columns=_panel_columns(results),
        lines=[("threshold", threshold)],
        accuracy=True,
    )


def _losses(results: SweepResults, folder: Path) -> Picture | None:
    assert results.grokking is not None
    return draw_splits(
        _splits(results, "train_eval_loss", "val_loss"),
        folder,
        file="loss.svg",
        what="Loss (nats per counted token)",
        columns=_panel_columns(results),
        lines=results.grokking.bounds,
    )


def _panel_columns(results: SweepResults) -> int:
    """Panels side by side: those of one row of a full grid of two factors, else three, or two for few arms."""
    finished = sum(1 for cell in results.cells if cell.finished)
    sides = _sides(results)
    if sides and finished == math.prod(map(len, sides)) and 1 < len(sides[1]) <= _MOST_PANEL_COLUMNS:
        return len(sides[1])
    return 2 if finished in (2, 4) else 3


def _sides(results: SweepResults) -> tuple[list[str], list[str]] | None:
    """Return the settings of both factors in plan order, None unless exactly two factors vary."""
    keys = list(results.cells[0].settings)
    if len(keys) != 2:
        return None
    rows, columns = (list(dict.fromkeys(cell.settings[key] for cell in results.cells)) for key in keys)
    return rows, columns


def _grid(results: SweepResults, folder: Path) -> Picture | None:
    sides = _sides(results)
    if sides is None or min(map(len, sides)) < 2:
        return None
    keys = list(results.cells[0].settings)
    at = {tuple(cell.settings.values()): index for index, cell in enumerate(results.cells)}
    cell_of = _steps_cell if results.grokking is not None else _metric_cell
    grid = HeatmapGrid(
        row_factor=keys[0],
        column_factor=keys[1],
        rows=tuple(sides[0]),
        columns=tuple(sides[1]),
        cells=tuple(
            tuple(
                cell_of(results, at[row, column]) if (row, column) in at else HeatmapCell(value=None, text=None)
                for column in sides[1]
            )
            for row in sides[0]
        ),
    )
    if results.grokking is not None:
        what = f"Median steps to validation accuracy {results.grokking.threshold:g}, and how many seeds reached it"
        return draw_heatmap(grid, folder, file="steps.svg", what=what, darker="later; grey: not reached by step N")
    if results.comparison is None:
        return None
    what = f"{column(results.metric).label} at step {results.comparison.step:,}, mean ± std over seeds"
    return draw_heatmap(grid, folder, file="grid.svg", what=what, darker="higher")


def _steps_cell(results: SweepResults, index: int) -> HeatmapCell:
    assert results.grokking is not None
    found = results.grokking.cells[index]
    if found.val is None:
        return HeatmapCell(value=None, text=None, absent="no finished run")
    return HeatmapCell(
        value=found.val.median,
        text=found.val.median_text(numbers.count),
        note=f"{found.success} of {found.settled}",
    )


def _metric_cell(results: SweepResults, index: int) -> HeatmapCell:
    row = results.rows[index]
    if row is None:
        absent = "stands apart" if results.cells[index].finished else "no finished run"
        return HeatmapCell(value=None, text=None, absent=absent)
    std = row.estimate.std
    note = "" if std is None else f"± {spread(std)}"
    return HeatmapCell(value=row.estimate.mean, text=numbers.formatter(results.metric)(row.estimate.mean), note=note)


def marked(pictures: Sequence[Picture], files: Sequence[str]) -> list[Picture]:
    """Return those of `pictures` that are named in `files`, in that order."""
    return [picture for file in files for picture in pictures if picture.file == file]
