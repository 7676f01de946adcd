"""Sweeps of a tiny model, and what tests look at in them."""

from pathlib import Path

from tiny_runs import QUIET, status

from gpt2lab.record.sweep import Sweep, read_state, read_sweep

SHORT = [*QUIET, "train.max_steps=2", "train.eval_every=0"]


def sweeps() -> list[Sweep]:
    return [read_sweep(path.parent) for path in sorted(Path("runs/sweeps").glob("*/*/sweep.json"))]


def words(sweep: Sweep) -> list[str]:
    return [read_state(sweep.run_dir(job)).word for job in sweep.jobs]


def started(sweep: Sweep) -> list[str]:
    """When each job started: the same moment again for one that was left alone."""
    return [status(sweep.run_dir(job))["started"] for job in sweep.jobs]
