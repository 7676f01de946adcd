"""The noise floor: the spread of runs that differ only in their seed, with like runs of the archive."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import json_bytes, read_json, write_atomic
from gpt2lab.record.markdown import one_line
from gpt2lab.record.sweep import is_sweep, read_sweep
from gpt2lab.record.values import look_up
from gpt2lab.report.comparison.arms import FACTS, Run, differing, read_run, values
from gpt2lab.report.comparison.statistics import NoiseFloor, noise_floor
from gpt2lab.report.numbers import plural

FILE = "noise.json"
VERSION = 1
MOST_FOR_NOISE = 200  # runs of the archive that the noise floor reads, the latest ones: under a second
ALIKE = tuple(fact for fact in FACTS if fact.name in ("data", "steps", "evaluation", "model"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenNoise:
    """What the archive added to the noise floor of a sweep when it was archived, so that its report stays the same."""

    metric: str
    step: int
    groups: tuple[tuple[float, ...], ...]  # values of runs that differ in nothing but their seed
    runs: int
    unreadable: int

    @property
    def words(self) -> str:
        """Of what the noise floor is, beside the sweep's own runs."""
        runs, groups = plural(self.runs, "run"), plural(len(self.groups), "group")
        left = f" ({self.unreadable} archived records could not be read)" if self.unreadable else ""
        return f"this sweep and of the archive when it was made: {runs} in {groups}{left}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What the archive adds to a comparison: runs like its own, and what could not be read."""

    runs: tuple[Run, ...]
    unreadable: tuple[str, ...]  # why, one line each

    @property
    def notes(self) -> list[str]:
        """What a reader of the noise floor has to know, in sentences."""
        found = []
        if self.runs:
            like = "same data, steps, evaluation and model"
            more = f"{plural(len(self.runs), 'more run')} of the archive: {like}; the latest {MOST_FOR_NOISE} at most"
            found.append(f"the noise floor looks at {more}")
        if self.unreadable:
            what = f"{plural(len(self.unreadable), 'archived record')} that cannot be read ({self.unreadable[0]})"
            found.append(f"the noise floor leaves out {what}: run gpt2lab verify")
        return found


def floor_of(runs: Iterable[Run], metric: str, step: int, frozen: FrozenNoise | None = None) -> NoiseFloor | None:
    """Return the noise floor of the values of `runs` at `step`; a seed that was run twice counts once.

    Groups of `frozen` count as well.
    """
    groups = [*_groups(runs, metric, step), *(frozen.groups if frozen else ())]
    return noise_floor(np.array(group) for group in groups)


def _groups(runs: Iterable[Run], metric: str, step: int) -> list[tuple[float, ...]]:
    groups: dict[str, dict[int, float]] = {}
    for run in runs:
        value = run.inputs.curve(metric).at(step)
        if value is not None:
            groups.setdefault(_same(run), {}).setdefault(run.seed, value)
    return [tuple(group.values()) for group in groups.values()]


def freeze(archived: Archived, metric: str, step: int) -> FrozenNoise:
    """Return what the archive adds to the noise floor of `metric` at `step`: groups of two runs or more."""
    groups = tuple(group for group in _groups(archived.runs, metric, step) if len(group) > 1)
    return FrozenNoise(
        metric=metric, step=step, groups=groups, runs=sum(map(len, groups)), unreadable=len(archived.unreadable)
    )


def write_frozen(directory: Path, frozen: FrozenNoise) -> None:
    """Write noise.json into `directory`. Raises ArchiveError."""
    write_atomic(directory / FILE, json_bytes({"version": VERSION, **asdict(frozen)}))


def read_frozen(directory: Path) -> FrozenNoise | None:
    """Return what noise.json in `directory` holds, None where there is none. Raises ArchiveError for a damaged one."""
    path = directory / FILE
    if not path.is_file():
        return None
    content = read_json(path)
    if content.pop("version", None) != VERSION:
        raise ArchiveError(f"{path}: expected version {VERSION} of the noise floor; use the gpt2lab that wrote it")
    try:
        groups = tuple(tuple(float(value) for value in group) for group in content.pop("groups"))
        frozen = FrozenNoise(groups=groups, **content)
        counts = (frozen.step, frozen.runs, frozen.unreadable)
        sound = (
            all(isinstance(count, int) and count >= 0 for count in counts)
            and isinstance(frozen.metric, str)
            and all(math.isfinite(value) for group in groups for value in group)
            and all(len(group) > 1 for group in groups)
            and frozen.runs == sum(map(len, groups))
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        raise ArchiveError(f"{path}: damaged, expected groups of finite values and how many runs they are of")
    return frozen


def like(baseline: Run, archive: Iterable[tuple[Path, dict[str, Any]]], named: Sequence[Run]) -> Archived:
    """Return the finished runs of the archive that train the same model on the same data for as long as `baseline`.

    `archive` yields (directory, provenance) of experiments; of a sweep its runs are looked at. Runs of the same config
    and seed as one of `named` are those again, and not among them. What cannot be read is told, not raised.
    """
    unreadable: list[str] = []
    known = {(_same(run), run.seed) for run in named}
    paths = [path for fact in ALIKE for path in fact.recorded if path.startswith("provenance.")]
    candidates = [
        directory
        for directory, provenance in _directories(archive, unreadable)
        if all(look_up({"provenance": provenance}, path) == baseline.inputs.fact(path) for path in paths)
    ][-MOST_FOR_NOISE:]
    runs = []
    for directory in candidates:
        try:
            run = read_run(directory)
        except ArchiveError as error:
            unreadable.append(one_line(str(error)))
            continue
        finished = run.inputs.fact("status.state") == "finished"
        if finished and (_same(run), run.seed) not in known and not any(differing(baseline, run, f) for f in ALIKE):
            runs.append(run)
    return Archived(runs=tuple(runs), unreadable=tuple(unreadable))


def _directories(
    archive: Iterable[tuple[Path, dict[str, Any]]], unreadable: list[str]
) -> Iterable[tuple[Path, dict[str, Any]]]:
    """Yield (directory, provenance) of every archived run, those of sweeps among them."""
    for directory, provenance in archive:
        if not is_sweep(directory):
            yield directory, provenance
            continue
        try:
            sweep = read_sweep(directory)
        except ArchiveError as error:
            unreadable.append(one_line(str(error)))
            continue
        for job in sweep.jobs:
            record = sweep.run_dir(job) / "provenance.json"
            if record.is_file():  # else the job did not begin
                try:
                    yield record.parent, read_json(record)
                except ArchiveError as error:
                    unreadable.append(one_line(str(error)))


def _same(run: Run) -> str:
    """Return what is equal for runs that differ in nothing but their seed."""
    return repr((run.key, *(values(run, fact) for fact in FACTS)))
