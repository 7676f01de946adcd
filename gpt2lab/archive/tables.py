"""The tables that a query reads: `experiments`, `runs` and `metrics`, as rows of plain values.

Columns are named as in the files, groups included and in lower case: val_loss and density.fc1 of summary.json,
optim.weight_decay of config.yaml.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2lab.archive.experiments import Experiment, Listed
from gpt2lab.archive.summary_keys import SUMMARY_KEYS
from gpt2lab.errors import ArchiveError
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import is_sweep, read_state, read_sweep
from gpt2lab.record.values import flatten

# The columns that every archive has; the others are those of its files.
COLUMNS: dict[str, tuple[str, ...]] = {
    "experiments": ("number", "slug"),
    "runs": ("run", "number", "job", "label", "status"),
    "metrics": ("run", "number", "job", "step"),
}
RUN_TABLES = {"runs", "metrics"}
MAX_NAMES = 300  # of columns that one file gives
# None begins with the underscore of SQLite's _rowid_.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./ -]{0,99}")


@dataclass(slots=True)
class Tables:
    """The rows of the tables. Of thousands of files each takes its time, so only what `names` asks for is read."""

    experiments: list[Listed]
    names: set[str]  # the words of the query, in lower case
    every_config: bool = False  # else only where a summary lacks a column that the query names
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {table: [] for table in COLUMNS}, init=False)
    damage: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.damage += [why for experiment in self.experiments for why in experiment.damage]
        self._read_experiments()
        if self.names & RUN_TABLES:
            for experiment in self.experiments:
                self._read_runs(experiment)

    def columns(self) -> dict[str, tuple[str, ...]]:
        """Return {table: columns}; those of summaries also where no experiment has a value."""
        documented = {"experiments": SUMMARY_KEYS, "runs": (), "metrics": ()}
        return {
            table: tuple(dict.fromkeys([*COLUMNS[table], *documented[table], *(name for row in rows for name in row)]))
            for table, rows in self.rows.items()
        }

    def _read_experiments(self) -> None:
        rows: list[dict[str, Any]] = [{"number": each.number, "slug": each.slug} for each in self.experiments]
        for experiment, row in zip(self.experiments, rows, strict=True):
            with self._noting_damage():
                row |= flat(experiment.path / "summary.json", experiment.summary, row)
        asked = self.names & {*SUMMARY_KEYS, *(name for row in rows for name in row)}
        for experiment, row in zip(self.experiments, rows, strict=True):
            missing = asked - row.keys()
            if missing or self.every_config:
                with self._noting_damage():
                    config = read_config(experiment.path)
                    row |= {k: v for k, v in config.items() if k not in row and (self.every_config or k in missing)}
        self.rows["experiments"] = rows

    @contextlib.contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except ArchiveError as error:
            self.damage.append(str(error))

    def _read_runs(self, experiment: Experiment) -> None:
        with self._noting_damage():
            jobs = read_sweep(experiment.path).jobs if is_sweep(experiment.path) else ()
            if not jobs:
                names = {"run": str(experiment.number), "number": experiment.number, "job": None}
                self._read_run(experiment.path, names)
            for job in jobs:
                names = {"run": f"{experiment.number}/{job.number}", "number": experiment.number, "job": job.number}
                self._read_run(experiment.path / job.folder, names, label=job.label)

    def _read_run(self, path: Path, names: dict[str, Any], label: str | None = None) -> None:
        row = {**names, "label": label}
        self.rows["runs"].append(row)
        with self._noting_damage():
            row["status"] = read_state(path).word
            if row["status"] != "not started":
                config, measured = read_run(path)
                row |= config
                for values in measured:
                    row |= {name: value for name, value in values.items() if value is not None or name not in row}
                if "metrics" in self.names:
                    self.rows["metrics"] += [{**names, **values} for values in measured]


def read_config(path: Path, reserved: Iterable[str] = COLUMNS["experiments"]) -> dict[str, Any]:
    """Return the columns that config.yaml in `path` gives. Raises ArchiveError as `flat`, and for a damaged one."""
    record = RunDir(path)
    return flat(record.config, record.read_config(), reserved)


def read_run(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the columns of config.yaml of a run, and the rows of its metrics.csv. Raises ArchiveError as `flat`."""
    reserved = {*COLUMNS["runs"], "label"}
    config, metrics = read_config(path, reserved), path / "metrics.csv"
    rows = [{name.lower(): value for name, value in row.items()} for row in read_metrics(metrics)]
    if rows:
        flat(metrics, rows[0], {*reserved, *config})
    return config, rows


def flat(path: Path, content: dict[str, Any], reserved: Iterable[str]) -> dict[str, Any]:
    """Return {dotted name in lower case: value}; a list of plain values is JSON text, and one of groups is left out.

    Raises ArchiveError for a name in `path` that is no column name, is in `reserved`, or differs from another in case
    only, for more than MAX_NAMES, and for a number that SQLite cannot hold.
    """
    columns: dict[str, Any] = {}
    for name, value in flatten(content).items():
        if isinstance(value, list):
            if any(isinstance(item, dict | list) for item in value):
                continue
            value = json.dumps(value, ensure_ascii=False, default=str)
        elif isinstance(value, dict):
            continue
        elif isinstance(value, bool):
            value = int(value)
        elif not isinstance(value, int | float | None):
            value = str(value)
        if not _NAME.fullmatch(name):
            raise ArchiveError(
                f"{path}: {name[:40]!r} is no column name; expected a letter, then letters, digits, _./-"
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ArchiveError(f"{path}: {name} is a whole number beyond 64 bits")
        if (column := name.lower()) in reserved:
            raise ArchiveError(f"{path}: {name} is the name of another column of the same run or experiment")
        if column in columns:
            raise ArchiveError(f"{path}: there are two {column}, which differ in case only; expected one of each name")
        columns[column] = value
    if len(columns) > MAX_NAMES:
        raise ArchiveError(f"{path}: {len(columns):,} names, at most {MAX_NAMES} become columns")
    return columns
