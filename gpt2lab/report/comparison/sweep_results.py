"""The numbers of a sweep: the status of its jobs, and what those that finished say about what it varies.

Put together from sweep.json and runs/ alone, of a sweep that runs, that died, or that is archived.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError
from gpt2lab.record.columns import result_names
from gpt2lab.record.sweep import Sweep, count_states, describe, read_sweep, why_partial
from gpt2lab.report.comparison.arms import TOKENS, Run, differing, differing_keys, show
from gpt2lab.report.comparison.compare import ArmResult, Comparison, compare_runs, unusable
from gpt2lab.report.comparison.costs import Costs, costs
from gpt2lab.report.comparison.grokking import Grokking, grokking
from gpt2lab.report.comparison.matched_loss import MatchedLoss, matched_loss
from gpt2lab.report.comparison.noise import FrozenNoise, freeze, like, read_frozen, write_frozen
from gpt2lab.report.comparison.sweep_cells import SEED, Cell, Member, read_cells
from gpt2lab.report.comparison.trajectories import SeedRange, common_steps, seed_range, split_gap


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResults:
    """A sweep read from disk. Tuples "per cell" have one entry for each of `cells`, in their order."""

    sweep: Sweep
    cells: tuple[Cell, ...]
    baseline: int  # index of the cell that the others are compared with
    metric: str
    comparison: Comparison | None
    no_comparison: str | None  # why there is none
    notes: tuple[str, ...]  # about the sweep; those about the runs compared are in the comparison
    matched: MatchedLoss
    costs: Costs
    gaps: tuple[SeedRange, ...]  # per cell: validation minus training loss
    grokking: Grokking | None  # None: the data ask no questions

    @property
    def members(self) -> tuple[Member, ...]:
        """Every job, cell by cell."""
        return tuple(member for cell in self.cells for member in cell.members)

    @property
    def unfinished(self) -> tuple[Member, ...]:
        """Every job that is not finished, in the order of the plan."""
        return tuple(sorted((m for m in self.members if not m.finished), key=lambda member: member.job.number))

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs are in which state, finished first; only states that occur."""
        return count_states(member.state.word for member in self.members)

    @property
    def reason(self) -> str | None:
        """Why the sweep is partial, as `15 of 18 jobs finished; 1 diverged, 2 not started`; None when it is whole."""
        return why_partial(self.counts)

    @property
    def rows(self) -> tuple[ArmResult | None, ...]:
        """Per cell: its row of the comparison; None without a run to compare, or where it stands apart."""
        by_run = {name: row for row in (self.comparison.rows if self.comparison else ()) for name in row.experiments}
        return tuple(next((by_run[m.name] for m in cell.members if m.name in by_run), None) for cell in self.cells)

    @property
    def arms(self) -> list[tuple[Cell, ArmResult | None]]:
        """Each cell with its row of the comparison."""
        return list(zip(self.cells, self.rows, strict=True))


def read_sweep_results(
    directory: Path, *, metric: str | None = None, baseline: Mapping[str, Any] | None = None
) -> SweepResults:
    """Read the sweep in `directory`; `metric` and `baseline` (values of a cell) are those of its plan unless given.

    The noise floor is of its own runs, and of those of the archive that noise.json froze.

    Raises ArchiveError for a damaged file, runs that are not what the plan says, and a baseline that no cell is.
    """
    sweep = read_sweep(directory)
    cells = read_cells(sweep)
    metric = metric or sweep.metric
    base = _baseline(sweep, cells, sweep.baseline if baseline is None else baseline)
    finished = _of_same_tokens(cells, base)
    no_comparison = _why_not(cells, base, metric)
    comparison = None if no_comparison else _compare(cells, base, metric, read_frozen(directory))
    answers = [[(m.run.inputs, m.state.word) for m in cell.members if m.run is not None] for cell in cells]
    return SweepResults(
        sweep=sweep,
        cells=cells,
        baseline=base,
        metric=metric,
        comparison=comparison,
        no_comparison=no_comparison,
        notes=tuple(_notes(cells, comparison)),
        matched=matched_loss(finished, base),
        costs=costs(finished, base),
        gaps=tuple(seed_range([split_gap(run.inputs) for run in runs]) for runs in finished),
        grokking=grokking(answers),
    )


def baseline_run(directory: Path) -> Path:
    """Return the directory of a finished run of the baseline that a sweep was planned with.

    Raises ArchiveError when no cell is that baseline, or none of its runs finished.
    """
    sweep = read_sweep(directory)
    cells = read_cells(sweep)
    cell = cells[_baseline(sweep, cells, sweep.baseline)]
    job = next((member.job for member in cell.members if member.finished), None)
    if job is None:
        raise ArchiveError(f"{directory}: the baseline ({cell.label}) has no finished run; name another: --baseline")
    return sweep.run_dir(job)


def freeze_noise(directory: Path, archive: Iterable[tuple[Path, dict[str, Any]]]) -> None:
    """Write into a sweep's directory what the archive of today adds to its noise floor, for reports to come.

    `archive` yields (directory, provenance) of every experiment. Without a comparison nothing is written.
    """
    results = read_sweep_results(directory)
    if results.comparison is not None:
        baseline = next(m.run for m in results.members if m.run and m.name == results.comparison.rows[0].experiments[0])
        runs = [run for cell in results.cells for run in cell.runs]
        write_frozen(directory, freeze(like(baseline, archive, runs), results.metric, results.comparison.step))


def _baseline(sweep: Sweep, cells: Sequence[Cell], chosen: Mapping[str, Any]) -> int:
    """Return the first cell that has all the values of `chosen`, where a value given as text may be a number's."""
    requested = {key: value for key, value in chosen.items() if key != SEED}
    for index, cell in enumerate(cells):
        if all(key in cell.values and _equal(cell.values[key], value) for key, value in requested.items()):
            return index
    asked = ", ".join(f"{show(key)}={show(value)}" for key, value in requested.items())
    labels = "; ".join(describe(cell.values) for cell in cells[:4]) + ("; …" if len(cells) > 4 else "")
    raise ArchiveError(f"{sweep.path}: no cell of this sweep is the baseline {asked}; there are {labels}")


def _equal(value: Any, requested: Any) -> bool:
    if show(value) == show(requested):
        return True
    try:
        return not isinstance(value, bool) and float(value) == float(requested)  # 0.30 is 0.3, 1e-3 is 0.001
    except (TypeError, ValueError):
        return False


def _of_same_tokens(cells: Sequence[Cell], baseline: int) -> list[tuple[Run, ...]]:
    """Return the finished runs of each cell, none where their losses are not of the tokens that the baseline's are."""
    first = next((run for cell in (cells[baseline], *cells) for run in cell.finished), None)
    return [
        cell.finished if first and not any(differing(first, run, TOKENS) for run in cell.finished) else ()
        for cell in cells
    ]


def _why_not(cells: Sequence[Cell], baseline: int, metric: str) -> str | None:
    """Return why the cells cannot be compared, or None."""
    runs = [run for cell in cells for run in cell.finished]
    if metric not in result_names():
        return f"{show(metric)} is not a result; expected one of {', '.join(result_names())}"
    if not runs:
        return "no job finished with a record, so there is nothing to compare"
    if all(unusable(run, metric) for run in runs):
        return f"no finished run has a finite {metric}"
    base = cells[baseline]
    if all(unusable(run, metric) for run in base.finished):
        return f"the baseline ({base.label}) has no finished run with {metric}: run its jobs, or choose another"
    usable = [run for run in runs if not unusable(run, metric)]
    if not len(common_steps([run.inputs.curve(metric) for run in usable])):
        return f"{metric} was measured at no step that all finished runs have in common"
    return None


def _compare(cells: Sequence[Cell], baseline: int, metric: str, frozen: FrozenNoise | None) -> Comparison:
    runs = [run for cell in cells for run in cell.runs]
    first = next(run for run in cells[baseline].finished if not unusable(run, metric))
    # All that differs between the configs was asked for: a group of the config may stand for many of its keys.
    differ = {key for run in runs for key in differing_keys(first, run)}
    vary = [*(key for key in cells[0].values if key in differ), *sorted(differ - cells[0].values.keys())]
    return compare_runs(runs, metric=metric, baseline=first.name, vary=vary, frozen=frozen)


def noise_words(comparison: Comparison) -> str:
    """Say whose runs the noise floor of a sweep is of."""
    return comparison.frozen.words if comparison.frozen is not None else "this sweep alone"


def _notes(cells: Sequence[Cell], comparison: Comparison | None) -> Iterable[str]:
    runs = [run for cell in cells for run in cell.finished]
    rules = sorted({str(rule) for run in runs if (rule := run.inputs.fact("config.train.stop_when")) is not None})
    lasts = [run.inputs.rows[-1]["step"] for run in runs if run.inputs.rows]
    if rules and lasts and min(lasts) < max(lasts):
        yield f"runs stop when {show(' or '.join(rules))}: they ended between steps {min(lasts):,} and {max(lasts):,}"
        if comparison is not None:
            yield (
                f"the comparison is at step {comparison.step:,}, when none of them had stopped: which one gets there "
                "first is told by the steps to get there, not by these values"
            )
    if comparison is not None:
        labels = {member.name: cell.label for cell in cells for member in cell.members}
        yield from (
            f"{labels[row.experiments[0]]}: not compared, {row.judgement.rule}: no difference, no equal training "
            "loss, no cost"
            for row in comparison.rows
            if row.judgement is not None and not row.comparable
        )
    for cell in cells:
        diverged = [member.name for member in cell.members if member.state.word == "diverged"]
        if diverged:
            left = "which has no mean" if not cell.finished else "whose mean is of the runs that did not"
            yield f"{cell.label}: {', '.join(diverged)} diverged, {left}"
        if not cell.finished:
            jobs = "its job is not" if len(cell.members) == 1 else f"none of its {len(cell.members)} jobs is"
            yield f"{cell.label}: missing, {jobs} finished"
