"""Sweep directories for tests, as a sweep leaves them on disk: jobs by formula, some of them not finished."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

from gpt2lab.record.provenance import config_hash
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import Sweep, SweepJob, write_sweep
from tests.run_records import EQUATIONS, diverged_rows, grokking_rows, text_rows, write_record

SWEEP_ID = "77" * 16
SEEDS = (1, 2, 3)


def write_banded_sweep(directory: Path, *, widths: tuple[int, ...] = (128, 256)) -> Path:
    """Dense, FC1, FC2 and both, each width, three seeds, all finished; a narrower band ends higher."""
    cells = [(0, 0), *((fc1, fc2) for w in widths for fc1, fc2 in ((w, 0), (0, w), (w, w)))]
    jobs = []
    for cell, (fc1, fc2) in enumerate(cells):
        for seed in SEEDS:
            values = {"fc1_band": fc1, "fc2_band": fc2, "seed": seed}
            job = _job(len(jobs), values)
            loss = 1.6 + sum(0.02 * (512 - width) / 256 for width in (fc1, fc2) if width) + of_seed(cell, seed)
            rows = text_rows(floor=loss)
            config = {"sparsity": "banded", "fc1_band": fc1, "fc2_band": fc2, "seed": seed}
            model = {"fc1_band": fc1, "fc2_band": fc2, "flop_per_token_dense": 5_000_000}
            model["flop_per_token_computed"] = 5_000_000 - sum(1_000_000 for width in (fc1, fc2) if width)
            _write_job(directory, job, rows, config, {"model": model}, {})
            jobs.append(_hashed(directory, job))
    return _write_plan(directory, jobs, name="banded", metric="val_loss")


def of_seed(cell: int, seed: int) -> float:
    """What the seed moves the final loss by: alike in all cells, and a little in each, which has mean 0."""
    return 0.004 * math.sin(9 * seed) + (0.0005 * (1 + cell % 3) * (2 - seed) if cell else 0)


def write_grokking_sweep(directory: Path) -> Path:
    """Weight decay by fraction by seed: delayed, at once, never; one job diverged, one interrupted, one never began."""
    jobs = []
    for decay in (0.0, 0.3, 1.0):
        for fraction in (0.3, 0.5):
            for seed in SEEDS:
                values = {"optim.weight_decay": decay, "data.train_fraction": fraction, "seed": seed}
                job = _job(len(jobs), values)
                config: dict[str, Any] = {
                    "task_position": "auto",
                    "seed": seed,
                    "optim": {"weight_decay": decay, "beta2": 0.98},
                    "data": {"train_fraction": fraction, "prime": 59},
                    "train": {"max_steps": 2000, "batch_size": "full", "eval_every": 50, "eval_batches": None},
                }
                generalised = {0.0: 9000, 0.3: 1500, 1.0: 900}[decay] - (700 if fraction == 0.5 else 0) + 40 * seed
                rows = grokking_rows(generalised=max(generalised, 200))
                status: dict[str, Any] = {"step": 2000, "training_s": 300.0 + seed}
                if job.number == 2:
                    rows, status = diverged_rows(), _ended("failed", "loss nan at step 80", 80) | {"exit_code": 4}
                if job.number == 7:
                    rows, status = rows[:9], _ended("interrupted", "stopped by SIGINT", 400)
                if job.number != 17:
                    _write_job(directory, job, rows, config, _facts(fraction), status)
                jobs.append(_hashed(directory, job))
    return _write_plan(directory, jobs, name="grokking", metric="val_accuracy")


def _facts(fraction: float) -> dict[str, Any]:
    return EQUATIONS | {"data": EQUATIONS["data"] | {"detail": {"train_fraction": fraction}}}


def _ended(state: str, reason: str, step: int) -> dict[str, Any]:
    return {"state": state, "reason": reason, "step": step}


def _job(number: int, values: dict[str, Any]) -> SweepJob:
    overrides = tuple(f"{key}={value}" for key, value in values.items())
    what = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())
    return SweepJob(
        number=number, folder=f"runs/{number}-{what}", overrides=overrides, values=values, config_hash="0" * 64
    )


def _write_job(directory: Path, job: SweepJob, rows: Any, config: Any, provenance: Any, status: Any) -> None:
    write_record(
        directory / job.folder,
        rows,
        config=config,
        provenance=provenance | {"run_id": f"{job.number:032x}"},
        status=status,
        overrides=job.overrides,
    )
    (directory / job.folder / "source.tar.gz").write_bytes(gzip.compress(bytes(10_240), mtime=0))  # an empty tar


def _hashed(directory: Path, job: SweepJob) -> SweepJob:
    """The job with the hash of the config it ran, in its plan and in its record."""
    run = RunDir(directory / job.folder)
    if not run.path.exists():
        return job
    found = config_hash(run.read_config())
    provenance = run.read_provenance() | {"config_hash": found}
    run.provenance.write_text(json.dumps(provenance))
    return SweepJob(number=job.number, folder=job.folder, overrides=job.overrides, values=job.values, config_hash=found)


def _write_plan(directory: Path, jobs: list[SweepJob], *, name: str, metric: str) -> Path:
    varies = tuple(jobs[0].values)
    grid = tuple(f"{key}={','.join(dict.fromkeys(str(job.values[key]) for job in jobs))}" for key in varies)
    write_sweep(
        Sweep(
            path=directory,
            sweep_id=SWEEP_ID,
            name=name,
            hypothesis="What varies moves the result by more than the seed does.",
            tags=("test",),
            command=("python", "-m", "gpt2lab.run", "-m", *grid),
            overrides=grid,
            varies=varies,
            baseline={},
            metric=metric,
            created="2026-03-01T10:00:00.000Z",
            jobs=tuple(jobs),
        )
    )
    return directory
