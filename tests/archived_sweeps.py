"""Sweeps in an archive, for tests: the records of sweep_records.py, with a report that holds what a list needs."""

import json
import shutil
from pathlib import Path

from gpt2lab.archive import create
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.sweep import read_sweep


def write_small_report(directory: Path, title: str) -> None:
    """A report of a sweep that depends on its plan, its jobs' states and every row of its runs."""
    sweep = read_sweep(directory)
    status = json.loads((directory / "status.json").read_text())
    rows = [len(read_metrics(path)) for path in sorted(directory.glob("runs/*/metrics.csv"))]
    summary = {"name": title, "kind": "sweep", "status": status["state"], "jobs": status["jobs"], "rows": rows}
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "README.md").write_text(f"# {title}\n\n{sweep.name}: {status['reason']}\n")


def archive(sweep: Path, root: Path, name: str = "a sweep", **options) -> Path:
    return create(sweep, root, **{"name": name, "hypothesis": None, "write_report": write_small_report, **options})


def copy(directory: Path, target: Path) -> Path:
    return Path(shutil.copytree(directory, target))
