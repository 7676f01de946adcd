"""Runs of a tiny model, and what tests look at in them."""

import json
import os
import signal
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from gpt2lab.record.columns import column
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.sweep import find_results
from gpt2lab.run import main
from gpt2lab.train.progress import Display

TINY = [
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=16",
    "model.max_seq_len=16",
    "train.batch_size=4",
    "train.eval_batches=2",
    "train.log_every=1",
    "sample.count=0",
    "archive.mode=off",
]
QUIET = [*TINY, "tracker=none"]
ENGINES = [["engine=torch", "engine.device=cpu"], ["engine=cuda", "engine.device=host"]]


def run(*overrides: str, expect: int = 0) -> Path | None:
    """Run and return the directory of the run that appeared, if one did."""
    before = set(find_results(Path("runs")))
    assert main(list(overrides)) == expect
    new = set(find_results(Path("runs"))) - before
    return new.pop() if new else None


def numbers(run_dir: Path) -> list[dict]:
    """Return the rows of a run without what differs from one execution to the next."""
    rows = read_metrics(run_dir / "metrics.csv")
    return [{key: value for key, value in row.items() if not column(key).timing} for row in rows]


def status(run_dir: Path) -> dict:
    return json.loads((run_dir / "status.json").read_text())


def assert_same_state(first: Path, second: Path) -> None:
    assert (first / "model.bin").read_bytes() == (second / "model.bin").read_bytes()
    one, other = (load_file(path / "state.safetensors") for path in (first, second))
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)


def stop_at(monkeypatch, step: int, number: signal.Signals) -> None:
    advance = Display.advance

    def advance_and_signal(self: Display, done: int) -> None:
        advance(self, done)
        if done == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Display, "advance", advance_and_signal)
