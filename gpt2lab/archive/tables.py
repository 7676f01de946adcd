"""The tables that a query reads: `experiments`, `runs` and `metrics`, as rows of plain values.

Columns are named as in the files, groups included: val_loss and density.fc1 of summary.json, optim.weight_decay of
config.yaml.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2lab.archive.experiments import Experiment, Listed
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
        """Return {table: columns}; of names that differ in case only, the first."""
        found = {}
        for table, rows in self.rows.items():
            names = dict.fromkeys([*COLUMNS[table], *(name for row in rows for name in row)])
            found[table] = tuple({name.casefold(): name for name in reversed(names)}.values())[::-1]
        return found

    def _read_experiments(self) -> None:
        rows = [{"number": each.number, "slug": each.slug, **_flat(each.summary)} for each in self.experiments]
        asked = {name for row in rows for name in row if name.casefold() in self.names}
        for experiment, row in zip(self.experiments, rows, strict=True):
            missing = asked - row.keys()
            if missing or self.every_config:
                config = _flat(self._read_config(experiment.path))
                row.update({k: v for k, v in config.items() if k not in row and (self.every_config or k in missing)})
        self.rows["experiments"] = rows

    def _read_config(self, path: Path) -> dict[str, Any]:
        try:
            return RunDir(path).read_config()
        except ArchiveError as error:
            self.damage.append(str(error))
            return {}

    def _read_runs(self, experiment: Experiment) -> None:
        try:
            jobs = read_sweep(experiment.path).jobs if is_sweep(experiment.path) else ()
        except ArchiveError as error:
            self.damage.append(str(error))
            return
        if not jobs:
            self._read_run(experiment.path, {"run": str(experiment.number), "number": experiment.number, "job": None})
        for job in jobs:
            names = {"run": f"{experiment.number}/{job.number}", "number": experiment.number, "job": job.number}
            self._read_run(experiment.path / job.folder, names, label=job.label)

    def _read_run(self, path: Path, names: dict[str, Any], label: str | None = None) -> None:
        row = {**names, "label": label}
        self.rows["runs"].append(row)
        try:
            row["status"] = read_state(path).word
            if row["status"] == "not started":
                return
            config, measured = RunDir(path).read_config(), read_metrics(path / "metrics.csv")
        except ArchiveError as error:
            self.damage.append(str(error))
            return
        row |= {name: value for name, value in _flat(config).items() if name not in row}
        for values in measured:
            row |= {name: value for name, value in values.items() if value is not None or name not in row}
        if "metrics" in self.names:
            self.rows["metrics"] += [{**names, **values} for values in measured]


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """Return {dotted name: value}; a list of plain values is JSON text, and one of groups is left out."""
    flat = {name: value for name, value in flatten(content).items() if not isinstance(value, dict)}
    for name, value in list(flat.items()):
        if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            del flat[name]
        elif isinstance(value, list):
            flat[name] = json.dumps(value, ensure_ascii=False, default=str)
        elif not isinstance(value, int | float | None):
            flat[name] = str(value)
    return flat
