"""The tables of a sweep's page: (heads, rows, line below), empty where there is nothing to show."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gpt2lab.record.columns import column
from gpt2lab.record.sweep import typed
from gpt2lab.report import numbers
from gpt2lab.report.comparison.arms import differing_keys
from gpt2lab.report.comparison.compare import ArmResult, Comparison
from gpt2lab.report.comparison.grokking import PHASES, GrokkingCell
from gpt2lab.report.comparison.matched_loss import MatchedPoint
from gpt2lab.report.comparison.statistics import Censored
from gpt2lab.report.comparison.sweep_cells import Cell
from gpt2lab.report.comparison.sweep_results import SweepResults
from gpt2lab.report.comparison_page.words import (
    CORRECTED,
    NO_BREAK,
    interval_of,
    interval_words,
    mean_std,
    mean_std_of,
    p_value,
    signed,
    signed_interval,
    unbroken,
)
from gpt2lab.report.markdown import Markdown, code, escape

MOST_TARGETS = 4  # columns of the matched-loss table


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: its heads, the first `n_text` of which are text and the others numbers; rows; the line below."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    n_text: int
    below: str = ""
    last_is_text: bool = False

    @property
    def rule(self) -> Markdown:
        """The line under the heads, text to the left and numbers to the right."""
        n_numbers = len(self.heads) - self.n_text - self.last_is_text
        return Markdown("|" + " :--- |" * self.n_text + " ---: |" * n_numbers + " :--- |" * self.last_is_text)


def factor_heads(results: SweepResults) -> list[str]:
    """Return the names of what varies, as short as they stay apart."""
    return list(results.cells[0].settings)


def arm_heads(results: SweepResults) -> tuple[str, ...]:
    return tuple(factor_heads(results)) or ("Arm",)


def arm_cells(results: SweepResults, index: int) -> tuple[Any, ...]:
    cell = results.cells[index]
    cells = [escape(value) for value in cell.settings.values()] or [escape(cell.label)]
    bold = index == results.baseline and results.comparison is not None and len(results.cells) > 1
    return tuple(Markdown(f"**{value}**") if bold and value else value for value in cells)


def main_table(results: SweepResults) -> Table | None:
    """One row per arm: what varies, verdict, density, seeds, mean, interval, difference, p."""
    if results.comparison is None or not any(results.rows):
        return None
    with_density = any(share != 1 for cell in results.cells for share in cell.density.values())
    several = len(results.cells) > 1
    heads = (
        *arm_heads(results),
        *(("Verdict",) if several else ()),
        *(("Kept, FC1 / FC2",) if with_density else ()),
        "Seeds",
        f"{column(results.metric).label}, mean ± std",
        "95 % interval",
        *(("Difference (interval)", "p") if several else ()),
    )
    rows = tuple(_main_row(results, index, with_density, several) for index in range(len(results.cells)))
    baseline = f"{results.cells[results.baseline].label} (in bold)" if several else None
    below = main_caption(results.comparison, baseline)
    return Table(heads=heads, rows=rows, n_text=len(arm_heads(results)) + several, below=below)


def main_caption(comparison: Comparison, baseline: str | None) -> str:
    """Return what stands below a table of arms: metric, unit and step, and what the differences to `baseline` are."""
    unit = column(comparison.metric).unit
    text = f"{column(comparison.metric).label}{f' in {unit}' if unit else ''} at step {comparison.step:,}; "
    text += f"{interval_words(comparison.metric, (row.estimate.interval for row in comparison.rows))}."
    if baseline is None:
        return text
    text += f" Differences are to {baseline}, paired by seed"
    many = comparison.comparisons
    return text + (f"; p is corrected for {many} comparisons (Holm), and {CORRECTED}." if many > 1 else ".")


def kept_words(density: dict[str, float]) -> str:
    """Return the shares of FC1 and FC2 that the bands keep."""
    return " / ".join(numbers.percent(density.get(matrix)) for matrix in ("fc1", "fc2"))


def _main_row(results: SweepResults, index: int, with_density: bool, several: bool) -> tuple[Any, ...]:
    cell, row = results.cells[index], results.rows[index]
    density = (kept_words(cell.density),) if with_density else ()
    n = len(row.by_seed) if row else 0
    seeds = str(n) if n == len(cell.members) else f"{n} of {len(cell.members)}"
    estimate = row.estimate if row else None
    mean, interval = (
        mean_std_of(results.metric, estimate),
        interval_of(results.metric, estimate.interval if estimate else None),
    )
    cells = (*density, seeds, mean, interval)
    if not several:
        return (*arm_cells(results, index), *cells)
    difference, p, verdict = _judged(results, index, row)
    return (*arm_cells(results, index), verdict, *cells, difference, p)


def _judged(results: SweepResults, index: int, row: ArmResult | None) -> tuple[Any, ...]:
    if row is None:
        verdict = "stands apart" if results.cells[index].finished else "no finished run"
        return numbers.MISSING, numbers.MISSING, verdict
    return judged_cells(row)


def judged_cells(row: ArmResult) -> tuple[Any, ...]:
    """Return difference with interval, p and verdict of one arm."""
    if row.judgement is None:
        return numbers.MISSING, numbers.MISSING, "baseline"
    verdict = row.judgement.verdict
    if not row.comparable:
        return numbers.MISSING, numbers.MISSING, f"{verdict}: {row.judgement.rule}"
    shown = Markdown(f"**{verdict}**") if verdict != "not distinguishable" else verdict
    if row.difference is None:
        return numbers.MISSING, numbers.MISSING, shown
    interval = f" ({signed_interval(row.corrected_interval)})" if row.corrected_interval else ""
    difference = Markdown(f"{signed(row.difference.mean)}{interval.replace(' to', NO_BREAK + 'to')}")
    return difference, unbroken(p_value(row.corrected_p)), shown


def unfinished_table(results: SweepResults) -> Table | None:
    """Each job that did not finish, with what its record says about why."""
    rows = tuple(
        (str(member.job.number), code(member.name), member.state.word, _last_step(member), member.state.reason or "")
        for member in results.unfinished
    )
    heads = ("Job", "Run", "State", "Last step", "Reason")
    return Table(heads=heads, rows=rows, n_text=len(heads)) if rows else None


def _last_step(member: Any) -> str:
    rows = member.run.inputs.rows if member.run is not None else []
    return f"{rows[-1]['step']:,}" if rows else numbers.MISSING


def matched_table(results: SweepResults) -> Table | None:
    """Validation loss where the training loss is the same; the line alone where the runs share no training loss."""
    matched = results.matched
    if not matched.targets:
        return None
    picked = _spread(len(matched.targets), MOST_TARGETS)
    targets = [matched.targets[index] for index in picked]
    rows = tuple(
        (*arm_cells(results, index), *(_matched_cell(points[target]) for target in picked))
        for index, points in enumerate(matched.points)
    )
    heads = (*arm_heads(results), *(f"At {numbers.loss(target)}" for target in targets))
    difference = " (difference to the baseline, by seed)" if len(results.cells) > 1 else ""
    below = f"Validation loss{difference} where {column(matched.train_metric).label.lower()} is first as low as the "
    below += f"head says. {matched.rule}"
    return Table(heads=heads, rows=rows, n_text=len(arm_heads(results)), below=below)


def _spread(n: int, most: int) -> list[int]:
    return list(range(n)) if n <= most else [round(i * (n - 1) / (most - 1)) for i in range(most)]


def _matched_cell(point: MatchedPoint | None) -> Any:
    if point is None:
        return numbers.MISSING
    difference = "" if point.difference is None else f" ({signed(point.difference.mean)})"
    return Markdown(f"{mean_std(point.val, numbers.loss)}{difference}")


def grokking_table(results: SweepResults) -> Table | None:
    """Success, steps to the thresholds, delay and phases of each arm."""
    found = results.grokking
    if found is None or not any(cell.runs for cell in found.cells):
        return None
    heads = (
        *arm_heads(results),
        "Generalised, of those that ended",
        f"Steps to training {found.threshold:g}",
        f"Steps to validation {found.threshold:g}",
        "Delay (steps)",
        "Ratio",
        "Phases",
    )
    rows = tuple((*arm_cells(results, index), *_grokking_cells(cell)) for index, cell in enumerate(found.cells))
    below = f"Medians over seeds (range); > N: not reached by step N. {found.rule}"
    return Table(heads=heads, rows=rows, n_text=len(arm_heads(results)), below=below, last_is_text=True)


def _grokking_cells(cell: GrokkingCell) -> tuple[Any, ...]:
    fraction = f"{cell.success} of {cell.settled}" if cell.settled else numbers.MISSING
    phases = [f"{cell.phases[phase]} {phase}" for phase in PHASES if cell.phases.get(phase)]
    return (
        unbroken(fraction),
        _censored(cell.train, numbers.count),
        _censored(cell.val, numbers.count),
        _censored(cell.delay, numbers.count),
        _censored(cell.ratio, lambda value: numbers.significant(value, 2)),
        ", ".join(phases) or numbers.MISSING,
    )


def _censored(value: Censored | None, show: Callable[[float], str]) -> str:
    if value is None:
        return numbers.MISSING
    median, span = unbroken(value.median_text(show)), value.range_text(show)
    return median if value.n == 1 or span == value.median_text(show) else Markdown(f"{median} ({escape(span)})")


def settings_rows(cells: tuple[Cell, ...], seeds: list[int]) -> list[tuple[str, str]]:
    """Return (key, values) of what varies, of what followed from it in the runs' configs, and the seeds."""
    rows = [(key, _settings(cell.values[key] for cell in cells)) for key in cells[0].values]
    runs = [cell.runs[0] for cell in cells if cell.runs]
    followed = dict.fromkeys(key for run in runs[1:] for key in differing_keys(runs[0], run))
    rows += [
        (f"{key} (follows)", _settings(run.config.get(key) for run in runs))
        for key in followed
        if key not in cells[0].values
    ]
    return [*rows, ("seed", ", ".join(map(str, seeds)))] if seeds else rows


def _settings(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(typed, values)))
