"""Finding and reading experiments. Only complete ones have a number; all else is ignored."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import check_version, read_json
from gpt2lab.record.sweep import RUNS, is_sweep

NUMBER = re.compile(r"([0-9]{5,12})-")  # that the name of every experiment begins with
_NUMBERED = re.compile(NUMBER.pattern + r"([a-z0-9-]+)")
PARTS = ("summary", "provenance", "status")
_SUMMARY_VERSION = 1  # a summary that names none is of this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One directory of the archive."""

    number: int
    slug: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed(Experiment):
    """An experiment and what a list says about it; a file that was not asked for is empty here, and so is one that
    cannot be read, named in `damage`.
    """

    summary: dict[str, Any]
    provenance: dict[str, Any]
    status: dict[str, Any]
    damage: tuple[str, ...] = ()


def find_experiments(root: Path) -> list[Experiment]:
    """Return the experiments below `root` by number, without reading them; [] where there is no archive."""
    if not root.is_dir():
        return []
    found = []
    with os.scandir(root) as entries:  # tells folders from files without asking for each
        for entry in entries:
            match = _NUMBERED.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                found.append(Experiment(number=int(match[1]), slug=match[2], path=root / entry.name))
    return sorted(found, key=lambda experiment: (experiment.number, experiment.slug))


def list_provenance(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return (directory, provenance) of the experiments below `root`, {} for one that cannot be read."""
    return [(listed.path, listed.provenance) for listed in list_experiments(root, ("provenance",))]


def list_experiments(root: Path, parts: Iterable[str] = PARTS) -> list[Listed]:
    """Return the experiments below `root` by number, with what their files say. A damaged one does not hide others.

    Only the files of `parts` are read: of thousands, each takes its time.
    """
    asked = tuple(parts)
    listed = []
    for experiment in find_experiments(root):
        contents: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        damage: tuple[str, ...] = ()
        for part in asked:
            try:
                path = experiment.path
                contents[part] = read_summary(path) if part == "summary" else read_json(path / f"{part}.json")
            except ArchiveError as error:
                damage += (str(error),)
        listed.append(
            Listed(number=experiment.number, slug=experiment.slug, path=experiment.path, **contents, damage=damage)
        )
    return listed


def resolve_experiment(root: Path, ref: str) -> Path:
    """Return the experiment that `ref` names: a number, NNNNN-slug, its path, or a name that only one has.

    Raises ArchiveError, listing what there is, when none or several match.
    """
    experiments = find_experiments(root)
    if not experiments:
        raise ArchiveError(f"{root}: there are no experiments in it; a finished run becomes one with gpt2lab snapshot")
    matches = _matches(root, experiments, ref)
    if len(matches) == 1:
        return matches[0].path
    if matches:
        raise ArchiveError(
            f"{ref!r} names {len(matches)} experiments of {root}: {_names(matches)}; use the folder's whole name"
        )
    whole = [found for found in _matches(root, experiments, split_ref(ref)[0]) if is_sweep(found.path)]
    if len(whole) == 1:
        name = whole[0].path.name
        raise ArchiveError(f"{ref!r} is one run of the sweep {name}, expected a whole experiment: name it as {name}")
    raise ArchiveError(f"{ref!r} names no experiment of {root}; there are {_names(experiments)}")


def split_ref(ref: str) -> tuple[str, str]:
    """Return (experiment, job) of a reference to one run of a sweep: 5/3, or a path like NNNNN-slug/runs/FOLDER."""
    experiment, _, job = ref.strip().rstrip("/").rpartition("/")
    return experiment.removesuffix(f"/{RUNS}"), job


def read_summary(directory: Path) -> dict[str, Any]:
    """Return summary.json of an experiment. Raises ArchiveError when it is missing, damaged or of another version."""
    path = directory / "summary.json"
    summary = read_json(path)
    check_version(path, summary.get("version", _SUMMARY_VERSION), _SUMMARY_VERSION)
    return summary


def read_run_id(experiment: Experiment) -> str | None:
    """Return the id of the run that was archived, or None where provenance.json cannot be read."""
    try:
        return read_json(experiment.path / "provenance.json").get("run_id")
    except ArchiveError:
        return None


def _matches(root: Path, experiments: list[Experiment], ref: str) -> list[Experiment]:
    name = ref.strip().rstrip("/")
    if not name:
        return []
    if Path(name).resolve().parent == root.resolve():
        name = Path(name).name
    matches = [experiment for experiment in experiments if name == experiment.path.name]
    if not matches and re.fullmatch(r"[0-9]+", name):
        matches = [experiment for experiment in experiments if experiment.number == int(name)]
    if not matches:
        matches = [
            experiment for experiment in experiments if name == experiment.slug or name == _read_name(experiment)
        ]
    return matches


def _read_name(experiment: Experiment) -> object:
    try:
        return read_summary(experiment.path).get("name")
    except ArchiveError:
        return None


def _names(experiments: list[Experiment]) -> str:
    """Name the latest ten."""
    names = ", ".join(experiment.path.name for experiment in experiments[-10:])
    earlier = len(experiments) - 10
    return names if earlier <= 0 else f"{names}, and {earlier} earlier ones"
