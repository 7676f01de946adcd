"""The jobs of a sweep as cells: one per setting, its seeds as members, in any state."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError
from gpt2lab.record.sweep import JobState, Sweep, SweepJob, read_state, short_keys, typed
from gpt2lab.report.comparison.arms import FACTS, Run, density, differing, differing_keys, read_run, show

SEED = "seed"
_RECORD = ("config.yaml", "provenance.json", "status.json", "metrics.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One job of a cell. `run` is None where no record can be read: never begun, or ended before the first row."""

    job: SweepJob
    seed: int | None
    state: JobState
    run: Run | None

    @property
    def name(self) -> str:
        """The folder of the run, without runs/."""
        return self.job.folder.rpartition("/")[2]

    @property
    def finished(self) -> bool:
        """Whether the run got to its end, so that it stands for what its setting reaches."""
        return self.run is not None and self.state.word == "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting of a sweep, in the order of the plan."""

    values: dict[str, Any]  # override key -> value, without the seed
    members: tuple[Member, ...]

    @property
    def label(self) -> str:
        """What tells this cell from the others, in words."""
        return " ".join(f"{key}={show(value)}" for key, value in self.settings.items()) or "all runs"

    @property
    def settings(self) -> dict[str, str]:
        """What sets this cell apart as a person would type it, by keys as short as they stay apart."""
        short = short_keys(self.values)
        return {short[key]: typed(value) for key, value in self.values.items()}

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that have a record, finished or not."""
        return tuple(member.run for member in self.members if member.run is not None)

    @property
    def finished(self) -> tuple[Run, ...]:
        """The finished runs."""
        return tuple(member.run for member in self.members if member.run is not None and member.finished)

    @property
    def absent(self) -> str:
        """Why a cell has no value in a comparison, when it has none."""
        return "stands apart" if self.finished else "no finished run"

    @property
    def density(self) -> dict[str, float]:
        """The exact share of weights kept in fc1 and fc2, by name; empty where no record tells."""
        return density(self.runs[0]) if self.runs else {}


def read_cells(sweep: Sweep) -> tuple[Cell, ...]:
    """Return the cells of a sweep, in the order in which the plan names them.

    Raises ArchiveError for a damaged file, and where runs of one cell differ in more than their seed or share one.
    """
    members: dict[str, list[Member]] = {}
    values: dict[str, dict[str, Any]] = {}
    for job in sweep.jobs:
        setting = {key: value for key, value in job.values.items() if key != SEED}
        same = repr(sorted(setting.items(), key=lambda item: item[0]))
        values.setdefault(same, setting)
        members.setdefault(same, []).append(_read_member(sweep, job))
    for group in members.values():
        _check_cell(sweep.path, group)
    return tuple(Cell(values=values[same], members=tuple(group)) for same, group in members.items())


def _read_member(sweep: Sweep, job: SweepJob) -> Member:
    directory = sweep.run_dir(job)
    state = read_state(directory)
    # A finished run has its record, or it is damaged. Another may have ended before it wrote the first file of it.
    whole = state.word == "finished" or all((directory / name).is_file() for name in _RECORD)
    # Under the name it has among its own, so that a report says the same wherever the sweep lies.
    run = read_run(directory, directory.name) if whole else None
    seed = job.values.get(SEED) if run is None else run.seed
    known = isinstance(seed, int) and not isinstance(seed, bool)
    return Member(job=job, seed=seed if known else None, state=state, run=run)


def _check_cell(path: Path, members: list[Member]) -> None:
    runs = [member.run for member in members if member.run is not None]
    seeds: dict[int, Run] = {}
    for run in runs:
        where = f"{path}: {runs[0].name} and {run.name} are one cell of the plan but"
        if keys := differing_keys(runs[0], run):
            raise ArchiveError(
                f"{where} ran different configs ({', '.join(map(show, keys[:3]))}): move the folder that does not "
                "belong here away"
            )
        for fact in FACTS:
            if differences := differing(runs[0], run, fact):
                raise ArchiveError(f"{where} have not the same {fact.name} ({'; '.join(differences)}): run one again")
        if run.seed in seeds:
            raise ArchiveError(
                f"{path}: {seeds[run.seed].name} and {run.name} are one cell and have the same seed, {run.seed}: "
                "one of the folders holds another run than the plan says"
            )
        seeds[run.seed] = run
