"""The tables of a comparison's page; None where there is nothing to show."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from gpt2lab.model.band_tiles import PRODUCTS
from gpt2lab.record.columns import column
from gpt2lab.record.sweep import typed
from gpt2lab.report import numbers
from gpt2lab.report.analysis import ACCURACY_REACHED
from gpt2lab.report.comparison.arms import differing_keys
from gpt2lab.report.comparison.compare import ArmResult, Comparison
from gpt2lab.report.comparison.costs import ArmCost
from gpt2lab.report.comparison.grokking import RULE
from gpt2lab.report.comparison.matched_loss import MatchedPoint
from gpt2lab.report.comparison.statistics import Censored, Estimate
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
    sentence,
    signed,
    signed_interval,
    signed_percent,
    two_digits,
    unbroken,
)
from gpt2lab.report.markdown import Markdown, TableColumn, code, columns_table, escape, table

MATRICES = ("fc1", "fc2")
BLOCKS = (
    "Blocks: hidden units of the blocks over which products of a band went; dense: in one product, as blocks would not "
    "be faster or are switched off."
)
MOST_TARGETS = 4  # columns of the matched-loss table


def arm_columns(results: SweepResults) -> list[TableColumn]:
    """Return the columns that name the arms by what varies, the baseline in bold where there is a comparison."""
    bold = results.comparison is not None and len(results.cells) > 1
    arms = [cell.settings or {"Arm": cell.label} for cell in results.cells]

    def shown(index: int, value: str) -> Markdown:
        return Markdown(f"**{escape(value)}**") if bold and index == results.baseline and value else escape(value)

    return [(head, [shown(index, arm[head]) for index, arm in enumerate(arms)]) for head in arms[0]]


def main_table(results: SweepResults) -> Markdown | None:
    """One row per arm: what varies, verdict, density, seeds, mean, interval, difference, p."""
    if results.comparison is None or not any(results.rows):
        return None
    several, arms = len(results.cells) > 1, arm_columns(results)
    finished = [(len(row.by_seed) if row else 0, len(cell.members)) for cell, row in results.arms]
    verdict, *measured = result_columns(
        results.comparison,
        results.rows,
        density=[cell.density for cell in results.cells],
        seeds=[f"{n}" if n == planned else f"{n} of {planned}" for n, planned in finished],
        absent=[cell.absent for cell in results.cells],
    )
    baseline = f"{results.cells[results.baseline].label} (in bold)" if several else None
    columns = [*arms, verdict, *measured] if several else [*arms, *measured[:-2]]
    return columns_table(columns, len(arms) + several, below=main_caption(results.comparison, baseline))


def result_columns(
    comparison: Comparison,
    rows: Sequence[ArmResult | None],
    *,
    density: Sequence[dict[str, float]],
    seeds: Sequence[str],
    absent: Sequence[str],
) -> list[TableColumn | None]:
    """Return verdict, density, seeds, mean, interval, difference and p of arms; `absent` says why one has no row."""
    metric = comparison.metric
    judged = [
        _judged(row) if row else (numbers.MISSING, numbers.MISSING, why) for row, why in zip(rows, absent, strict=True)
    ]
    differences, p_values, verdicts = zip(*judged, strict=True)
    banded = any(share != 1 for shares in density for share in shares.values())
    kept = [" / ".join(numbers.percent(shares.get(matrix)) for matrix in ("fc1", "fc2")) for shares in density]
    return [
        ("Verdict", verdicts),
        ("Kept, FC1 / FC2", kept) if banded else None,
        ("Seeds", seeds),
        (f"{column(metric).label}, mean ± std", [mean_std_of(metric, row.estimate if row else None) for row in rows]),
        ("95 % interval", [interval_of(metric, row.estimate.interval if row else None) for row in rows]),
        ("Difference (interval)", differences),
        ("p", p_values),
    ]


def _judged(row: ArmResult) -> tuple[Any, ...]:
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


def unfinished_table(results: SweepResults) -> Markdown | None:
    """Each job that did not finish, with what its record says about why."""
    rows = []
    for member in results.unfinished:
        last = member.run.inputs.rows[-1:] if member.run is not None else []
        step = f"{last[0]['step']:,}" if last else numbers.MISSING
        rows.append((member.job.number, code(member.name), member.state.word, step, member.state.reason or ""))
    return table(("Job", "Run", "State", "Last step", "Reason"), rows, 5) if rows else None


def matched_table(results: SweepResults) -> Markdown | None:
    """Validation loss where the training loss is the same; None where the runs share no training loss."""
    matched, arms = results.matched, arm_columns(results)
    if not matched.targets:
        return None
    picked = np.unique(np.linspace(0, len(matched.targets) - 1, MOST_TARGETS).round().astype(int))
    difference = " (difference to the baseline, by seed)" if len(results.cells) > 1 else ""
    below = f"Validation loss{difference} where {column(matched.train_metric).label.lower()} is first as low as the "
    below += f"head says. {matched.rule}"
    columns: list[TableColumn] = [
        (f"At {numbers.loss(matched.targets[at])}", [_matched_cell(points[at]) for points in matched.points])
        for at in picked
    ]
    return columns_table([*arms, *columns], len(arms), below=below)


def _matched_cell(point: MatchedPoint | None) -> Any:
    if point is None:
        return numbers.MISSING
    difference = "" if point.difference is None else f" ({signed(point.difference.mean)})"
    return Markdown(f"{mean_std(point.val, numbers.loss)}{difference}")


def grokking_table(results: SweepResults) -> Markdown | None:
    """Success, steps to the thresholds, delay and phases of each arm."""
    found, arms = results.grokking, arm_columns(results)
    if found is None or not any(cell.val for cell in found.cells):
        return None
    cells = found.cells
    fractions = [f"{cell.success} of {cell.settled}" if cell.settled else numbers.MISSING for cell in cells]
    phases = [", ".join(f"{n} {phase}" for phase, n in cell.phases.items()) or numbers.MISSING for cell in cells]
    columns: list[TableColumn] = [
        ("Generalised, of those that ended", [unbroken(fraction) for fraction in fractions]),
        (f"Steps to training {ACCURACY_REACHED:g}", [_censored(cell.train, numbers.count) for cell in cells]),
        (f"Steps to validation {ACCURACY_REACHED:g}", [_censored(cell.val, numbers.count) for cell in cells]),
        ("Delay (steps)", [_censored(cell.delay, numbers.count) for cell in cells]),
        ("Ratio", [_censored(cell.ratio, two_digits) for cell in cells]),
        ("Phases", phases),
    ]
    below = f"Medians over seeds (range); > N: not reached by step N. {RULE}"
    return columns_table([*arms, *columns], len(arms), below=below, last_is_text=True)


def _censored(value: Censored | None, show: Callable[[float], str]) -> str:
    if value is None:
        return numbers.MISSING
    median, span = unbroken(value.median_text(show)), value.range_text(show)
    return median if value.n == 1 or span == value.median_text(show) else Markdown(f"{median} ({escape(span)})")


def settings_table(cells: tuple[Cell, ...], seeds: list[int]) -> Markdown:
    """Return the values of what varies, of what followed from it in the runs' configs, and the seeds."""
    rows = [(key, _settings(cell.values[key] for cell in cells)) for key in cells[0].values]
    runs = [cell.runs[0] for cell in cells if cell.runs]
    followed = dict.fromkeys(key for run in runs[1:] for key in differing_keys(runs[0], run))
    rows += [
        (f"{key} (follows)", _settings(run.config.get(key) for run in runs))
        for key in followed
        if key not in cells[0].values
    ]
    rows += [("seed", ", ".join(map(str, seeds)))] if seeds else []
    return table(("Varies", "Settings"), rows, 2)


def _settings(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(typed, values)))


def cost_table(results: SweepResults) -> Markdown | None:
    """Steps, time and arithmetic to a loss that every arm reaches, and the speed of training."""
    costs, arms = results.costs, arm_columns(results)
    told = [cost for cost in costs.cells if cost is not None]
    if not told:
        return None
    to = costs.target is not None
    others = [cost for index, cost in enumerate(costs.cells) if cost and index != results.baseline]
    timed = to and any(cost.seconds for cost in (others if len(costs.cells) > 1 else told))
    work = to and any(cost.flop_dense for cost in told)
    pairs = [(cost.flop_computed, cost.flop_dense) for cost in told]
    less = work and any(computed and dense and computed.mean != dense.mean for computed, dense in pairs)
    blocks = [blocks_words(cell) for cell in results.cells]

    def cells(show: Callable[[ArmCost], str]) -> list[str]:
        return [numbers.MISSING if cost is None else show(cost) for cost in costs.cells]

    overhead = cells(lambda cost: numbers.MISSING if cost.overhead is None else signed_percent(cost.overhead))
    if costs.cells[results.baseline] is not None:
        overhead[results.baseline] = "baseline"
    columns: list[TableColumn | None] = [
        ("Blocks, FC1 / FC2", [words or numbers.MISSING for words in blocks]) if any(blocks) else None,
        ("Steps", cells(lambda cost: mean_std(cost.step, numbers.count, two_digits))) if to else None,
        ("Training time (s)", cells(lambda c: mean_std(c.seconds, numbers.rounded, two_digits))) if timed else None,
        ("TFLOP, dense", cells(lambda cost: _tera(cost.flop_dense))) if work else None,
        ("TFLOP, computed", cells(lambda cost: _tera(cost.flop_computed))) if less else None,
        ("Tokens/s", cells(lambda cost: mean_std(cost.tokens_per_s, numbers.count, two_digits))),
        ("Time per token", overhead) if len(costs.cells) > 1 else None,
        ("Not training", cells(lambda cost: numbers.percent(cost.outside.mean if cost.outside else None))),
    ]
    goal = f"To a validation loss of {numbers.loss(costs.target)}, which every compared run reaches." if to else ""
    said = (goal, sentence(costs.reason or ""), sentence(costs.untimed or ""), costs.rule, BLOCKS * any(blocks))
    return columns_table([*arms, *columns], len(arms), below=" ".join(filter(None, said)))


def _tera(estimate: Estimate | None) -> str:
    return numbers.MISSING if estimate is None else numbers.rounded(estimate.mean / 1e12)


def blocks_words(cell: Cell) -> str | None:
    """Return the hidden units of the blocks over which products of FC1 and FC2 went; None without band or record."""
    if all(share == 1 for share in cell.density.values()):
        return None
    told = []
    for name in MATRICES:
        tiles = cell.runs[0].inputs.fact(f"provenance.model.mlp_tiles.{name}")
        if not isinstance(tiles, dict) or set(tiles) != set(PRODUCTS):
            return None
        told.append(", ".join(dict.fromkeys("dense" if size is None else str(size) for size in tiles.values())))
    return " / ".join(told)
