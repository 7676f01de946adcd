"""Archives for the tests of SQL: four runs of a few values each, and a run beside a sweep."""

import json
from pathlib import Path

import yaml

from gpt2lab.archive import list_experiments
from gpt2lab.archive.query import select
from tests.run_records import text_rows, write_record
from tests.sweep_records import write_grokking_sweep

RESULTS = [
    {"name": "first", "val_loss": 1.8, "status": "finished", "delay": None, "density": {"fc1": 1.0}, "tags": ["a"]},
    {"name": "second", "val_loss": 2.5, "status": "finished", "delay": 300, "density": {"fc1": 0.44}, "tags": []},
    {"name": "third", "val_loss": None, "status": "failed", "delay": None, "density": {"fc1": 1.0}},
    {
        "name": "fourth",
        "val_loss": 0.3,
        "status": "finished",
        "delay": 20,
        "density": {"fc1": 1.0},
        "data": "equations",
    },
]
CONFIGS = [
    {"seed": 1, "data": {"source": "pydocs"}, "train": {"batch_size": 16, "eval_train": True}},
    {"seed": 2, "data": {"source": "pydocs"}, "train": {"batch_size": 32, "eval_train": False}},
    {"seed": 1, "data": {"source": "text"}, "train": {"batch_size": 16, "eval_train": True}},
    {"seed": 1, "data": {"source": "modular"}, "train": {"batch_size": "full", "eval_train": True}},
]


def write_runs(root: Path) -> Path:
    for number, (summary, config) in enumerate(zip(RESULTS, CONFIGS, strict=True), 1):
        path = root / f"{number:05d}-{summary['name']}"
        path.mkdir(parents=True)
        (path / "summary.json").write_text(json.dumps(summary))
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        (path / "provenance.json").write_text("{}")
        (path / "status.json").write_text("{}")
    return root


def write_run_and_sweep(root: Path) -> Path:
    """One run and one sweep of 18 jobs: 2 diverged, 7 was interrupted, 17 never began."""
    run = write_record(root / "00001-alone", text_rows(steps=40, eval_every=20), config={"seed": 9})
    (run / "summary.json").write_text(json.dumps({"name": "alone", "seed": 9, "val_loss": 1.5}))
    sweep = write_grokking_sweep(root / "00004-grokking")
    (sweep / "config.yaml").write_text("optim: {beta2: 0.98}\nsparsity: dense\n")
    (sweep / "summary.json").write_text(json.dumps({"name": "grokking", "kind": "sweep", "arms": [{"n": 3}]}))
    return root


def listed(root: Path):
    return list_experiments(root, parts=("summary",))


def rows(root: Path, text: str) -> list[tuple]:
    return select(listed(root), text).rows
