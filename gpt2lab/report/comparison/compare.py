"""Comparing archived runs: what differs is looked at before any number, and a verdict never claims more than the seeds.

Every arm is compared with the baseline, paired by seed, at the last step at which all of them measured the metric.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.errors import ArchiveError, ConfigError
from gpt2lab.record.columns import column, result_names
from gpt2lab.record.sweep import short_keys, typed
from gpt2lab.report import numbers
from gpt2lab.report.comparison import statistics
from gpt2lab.report.comparison.arms import (
    FACTS,
    HARDWARE,
    TOKENS,
    Arm,
    Run,
    check_vary,
    density,
    differing,
    differing_keys,
    group,
    keys_of,
    read_run,
    run_name,
    show,
    why_apart,
)
from gpt2lab.report.comparison.noise import Archived, FrozenNoise, floor_of, like
from gpt2lab.report.comparison.statistics import Difference, Estimate, Interval, Judgement, NoiseFloor
from gpt2lab.report.comparison.trajectories import common_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """One arm of the table."""

    experiments: tuple[str, ...]
    varies: dict[str, str]  # what tells the arms of the table apart
    density: dict[str, float]  # share of weights kept in fc1 and fc2, exact
    by_seed: dict[int, float]
    estimate: Estimate
    difference: Difference | None  # to the baseline; None for the baseline, and without a seed in common
    corrected_p: float | None
    corrected_interval: Interval | None
    judgement: Judgement | None  # None for the baseline

    @property
    def comparable(self) -> bool:
        """Whether the value is of the same tokens as the baseline's."""
        return self.judgement is None or self.judgement.verdict != "not compared"

    @property
    def label(self) -> str:
        """What tells this arm from the others, in words."""
        return _label(self.varies) or self.experiments[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The arms that may stand in one table, the baseline first, and what stands apart from it and why."""

    metric: str
    higher_is_better: bool
    step: int  # at which every value was measured
    rows: tuple[ArmResult, ...]
    apart: tuple[tuple[str, tuple[str, ...]], ...]  # (experiments, reasons)
    left_out: tuple[tuple[str, str], ...]  # (experiment, reason)
    notes: tuple[str, ...]
    floor: NoiseFloor | None
    frozen: FrozenNoise | None  # in the floor
    comparisons: int  # p-values that the correction counted

    @property
    def sentences(self) -> list[str]:
        """One sentence per arm with its verdict and the numbers behind it."""
        return [_sentence(self, row) for row in self.rows[1:]]


def compare(
    directories: Sequence[Path], *, metric: str = "val_loss", baseline: Path | None = None, **options: Any
) -> Comparison:
    """Compare the experiments in `directories` as `compare_runs` does, with its other options.

    Raises ConfigError for what cannot be asked, ArchiveError for a damaged file.
    """
    if len(directories) < 2:
        raise ConfigError(f"compare needs two experiments or more, got {len(directories)}: name another one")
    first = None if baseline is None else run_name(baseline)
    _check([run_name(directory) for directory in directories], metric, first)
    return compare_runs([read_run(path) for path in directories], metric=metric, baseline=first, **options)


def compare_runs(
    runs: Sequence[Run],
    *,
    metric: str = "val_loss",
    baseline: str | None = None,
    vary: Iterable[str] = (),
    archive: Iterable[tuple[Path, dict[str, Any]]] = (),
    frozen: FrozenNoise | None = None,
) -> Comparison:
    """Compare `runs`, at least one, with the arm of the run named `baseline`, or else of the first.

    `vary` names facts or config keys that may differ beside the settings that always may. `archive` yields (directory,
    provenance) of every experiment, of which like ones count for the noise floor. `frozen` is what an archive added to
    it once, and counts for the same metric at the same step. Raises ConfigError for what cannot be asked, ArchiveError
    for runs that may not be put together.
    """
    _check([run.name for run in runs], metric, baseline)
    vary = check_vary(vary, runs)
    _check_measured(runs, metric)
    arms = group(runs, vary)
    first = next(arm for arm in arms if baseline is None or baseline in {run.name for run in arm.runs})
    facts = (*FACTS, HARDWARE) if column(metric).timing else FACTS
    apart = {arm.names: why_apart(first.first, arm.first, set(vary), facts) for arm in arms}
    together = [first, *(arm for arm in arms if arm is not first and not apart[arm.names])]
    left_out = {run.name: reason for arm in arms for run in arm.runs if (reason := unusable(run, metric))}
    usable = [Arm(runs=kept) for arm in together if (kept := tuple(r for r in arm.runs if r.name not in left_out))]
    if not usable or usable[0].first.key != first.first.key:
        reasons = "; ".join(f"{run.name}: {left_out[run.name]}" for run in first.runs)
        raise ArchiveError(f"the baseline has no run to compare with ({reasons}): name another with --baseline")
    steps = common_steps([run.inputs.curve(metric) for arm in usable for run in arm.runs])
    if not len(steps):
        raise ArchiveError(f"{metric} was measured at no step that all of these experiments have in common")
    step = int(steps[-1])
    archived = like(first.first, archive, runs)
    same = [run for arm in usable for run in arm.runs if not other_tokens(first.first, run, metric)]
    frozen = frozen if frozen is not None and (frozen.metric, frozen.step) == (metric, step) else None
    floor = floor_of([*same, *archived.runs], metric, step, frozen)
    rows = _rows(usable, vary, metric, step, floor)
    return Comparison(
        metric=metric,
        higher_is_better=bool(column(metric).higher_is_better),
        step=step,
        rows=rows,
        apart=tuple((names, tuple(reasons)) for names, reasons in apart.items() if reasons),
        left_out=tuple(left_out.items()),
        notes=tuple(_notes(usable, vary, metric, step, archived)),
        floor=floor,
        frozen=frozen,
        comparisons=sum(1 for row in rows if row.corrected_p is not None),
    )


def _check(names: Sequence[str], metric: str, baseline: str | None) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name} is named twice: name each experiment once")
    if metric not in result_names():
        known = bool(column(metric).description)
        what = "is a setting or a count, not a result" if known else "is not a metric of this version"
        raise ConfigError(f"--metric {metric} {what}; expected one of {', '.join(result_names())}")
    if baseline is not None and baseline not in names:
        raise ConfigError(f"--baseline {baseline} is not among the experiments named: {', '.join(names)}")


def _check_measured(runs: Sequence[Run], metric: str) -> None:
    if not any(row.get(metric) is not None for run in runs for row in run.inputs.rows):
        measured = [m for m in result_names() if any(row.get(m) is not None for run in runs for row in run.inputs.rows)]
        raise ConfigError(
            f"--metric {metric}: none of these {len(runs)} experiments measured it; "
            f"measured were {', '.join(measured) or 'no metrics at all'}"
        )


def unusable(run: Run, metric: str) -> str | None:
    """Say why a run has no value to compare: an unfinished one is no sample of what its setting reaches."""
    state = run.inputs.fact("status.state")
    if state != "finished":
        return f"{show(state)} ({show(run.inputs.fact('status.reason'))})"
    if steps := run.inputs.not_finite(metric):
        return f"{metric} is not finite at step {steps[0]:,}"
    return None if len(run.inputs.curve(metric)) else f"{metric} was not measured"


def _rows(arms: list[Arm], vary: list[str], metric: str, step: int, floor: NoiseFloor | None) -> tuple[ArmResult, ...]:
    by_seed = []
    for arm in arms:
        values = {run.seed: run.inputs.curve(metric).at(step) for run in arm.runs}
        by_seed.append({seed: value for seed, value in sorted(values.items()) if value is not None})
    differences = [
        statistics.difference_by_seed(measured, by_seed[0])
        if arm is not arms[0] and not other_tokens(arms[0].first, arm.first, metric)
        else None
        for arm, measured in zip(arms, by_seed, strict=True)
    ]
    tested = {index: d.p for index, d in enumerate(differences) if d is not None and d.p is not None}
    corrected = dict(zip(tested, statistics.holm(list(tested.values())), strict=True))
    m = len(tested)
    rows = []
    for index, (arm, measured, difference) in enumerate(zip(arms, by_seed, differences, strict=True)):
        p = corrected.get(index)
        interval = None if difference is None or p is None else statistics.corrected_interval(difference, p, m)
        better = bool(column(metric).higher_is_better)
        if details := other_tokens(arms[0].first, arm.first, metric):
            judgement = Judgement(verdict="not compared", rule=f"other tokens ({'; '.join(details)})")
        else:
            judgement = statistics.judge(difference, corrected_p=p, comparisons=m, floor=floor, higher_is_better=better)
        rows.append(
            ArmResult(
                experiments=tuple(run.name for run in arm.runs),
                varies=_varies(arm, arms, vary),
                density=density(arm.first),
                by_seed=measured,
                estimate=statistics.estimate(np.array(list(measured.values()))),
                difference=difference,
                corrected_p=p,
                corrected_interval=interval,
                judgement=judgement if index else None,
            )
        )
    return tuple(rows)


def other_tokens(baseline: Run, run: Run, metric: str) -> list[str]:
    """Return what makes the means of two runs those of other tokens; [] for time and memory, which are of none."""
    return [] if column(metric).timing else differing(baseline, run, TOKENS)


def _varies(arm: Arm, arms: list[Arm], vary: list[str]) -> dict[str, str]:
    keys = dict.fromkeys(key for other in arms for key in differing_keys(arms[0].first, other.first))
    keys = dict.fromkeys([*(key for key in vary if key in keys), *keys])  # as asked for
    told = {key: show(arm.first.config.get(key, "absent")) for key in keys}
    for fact in FACTS:
        # Where no key of the config says it, the record does: another commit, other bytes under the same path.
        if fact.name in vary and not keys_of(fact, keys):
            for path in fact.recorded:
                recorded = [other.first.fact(path) for other in arms]
                if any(value != recorded[0] for value in recorded):
                    told[path.partition(".")[2]] = show(arm.first.fact(path))
    return told


def _label(varies: dict[str, str]) -> str:
    short = short_keys(varies)
    return " ".join(f"{short[key]}={_typed(value)}" for key, value in varies.items())


def _typed(value: str) -> str:
    """Return a recorded value as a person would type it: 0 for 0.0."""
    try:
        return typed(float(value)) if "." in value else value
    except ValueError:
        return value


def _notes(arms: list[Arm], vary: list[str], metric: str, step: int, archived: Archived) -> Iterable[str]:
    runs = [run for arm in arms for run in arm.runs]
    named = [(_label(_varies(arm, arms, vary)) or arm.names, arm) for arm in arms]
    first = runs[0]
    different = {fact.name: found for fact in FACTS for run in runs if (found := differing(first, run, fact))}
    equal = [fact.name for fact in FACTS if fact.name not in different]
    yield f"equal in all {len(runs)} runs: {', '.join(equal) or 'nothing'}"
    yield from (f"not the same {name}, as asked: {'; '.join(details)}" for name, details in different.items())
    if details := next(filter(None, (differing(first, run, HARDWARE) for run in runs)), []):
        yield f"not the same hardware: {'; '.join(details)}"
    later = [name for name, arm in named if any(run.inputs.curve(metric).last[0] > step for run in arm.runs)]
    if later:
        yield f"compared at step {step:,}, the last that all have; {', '.join(later)} went on after it"
    everyone = sorted({run.seed for run in runs})
    for name, arm in named:
        missing = sorted(set(everyone) - {run.seed for run in arm.runs})
        if missing:
            yield f"{name}: no run with seed {', '.join(map(str, missing))}"
    if len(arms) == 1:
        yield "one arm: nothing varies, so there is no baseline to compare with"
    if step == 0:
        yield "step 0 is the only one that all have: these values were measured before any training"
    yield from archived.notes


def _sentence(comparison: Comparison, row: ArmResult) -> str:
    assert row.judgement is not None
    base = comparison.rows[0]
    show = numbers.formatter(comparison.metric)
    means = f"{show(row.estimate.mean)} against {show(base.estimate.mean)}"
    pairs = row.difference.n if row.difference else 0
    if not row.comparable:
        return f"{row.label}: not compared. {comparison.metric} {means}; {row.judgement.rule}."
    return (
        f"{row.label}: {row.judgement.verdict}. {comparison.metric} {means} at step {comparison.step:,}, "
        f"{pairs} {'pair' if pairs == 1 else 'pairs'} of equal seed; {row.judgement.rule}."
    )
