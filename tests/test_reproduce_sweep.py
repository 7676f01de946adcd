"""`gpt2lab reproduce N/JOB`: one run of an archived sweep, with the source that its runs share."""

import json
import os
import shutil
from pathlib import Path

import pytest

from gpt2lab.archive.reproduce import plan_reproduction
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import file_sha256
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.provenance import config_hash
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.source_archive import source_of
from gpt2lab.record.sweep import Sweep, SweepJob, write_sweep
from gpt2lab.run import main as run_main
from tests.archived_sweeps import archive
from tests.tiny_runs import QUIET

RUN = [*QUIET, "train.max_steps=3", "train.eval_every=3"]


@pytest.fixture(scope="module")
def archived(tmp_path_factory) -> Path:
    """A folder whose experiments/ holds a sweep of two runs of three steps, of seeds 1 and 2."""
    folder = tmp_path_factory.mktemp("archived")
    before = Path.cwd()
    os.chdir(folder)
    try:
        jobs = [train(number, seed) for number, seed in enumerate((1, 2))]
        provenance = Path("sweep", jobs[1].folder, "provenance.json")  # of the same code with another README
        provenance.write_text(json.dumps(json.loads(provenance.read_text()) | {"source_hash": "51" * 32}))
        write_sweep(plan(jobs))
        archive(Path("sweep"), Path("experiments"))
    finally:
        os.chdir(before)
    return folder


def train(number: int, seed: int) -> SweepJob:
    folder = f"runs/{number}-seed={seed}"
    overrides = (*RUN, f"seed={seed}")
    assert run_main([*overrides, f'hydra.run.dir="sweep/{folder}"']) == 0
    found = config_hash(RunDir(Path("sweep", folder)).read_config())
    return SweepJob(number=number, folder=folder, overrides=overrides, values={"seed": seed}, config_hash=found)


def plan(jobs: list[SweepJob]) -> Sweep:
    return Sweep(
        path=Path("sweep"),
        sweep_id="5e" * 16,
        name="two seeds",
        hypothesis=None,
        tags=(),
        command=("python", "-m", "gpt2lab.run", "-m", *RUN, "seed=1,2"),
        overrides=(*RUN, "seed=1,2"),
        varies=("seed",),
        baseline={},
        metric="val_loss",
        created="2026-03-01T10:00:00.000Z",
        jobs=tuple(jobs),
    )


@pytest.fixture
def experiment(archived, workplace) -> Path:
    """A copy of the experiment, below the current directory."""
    shutil.copytree(archived / "experiments", "experiments")
    return Path("experiments/00001-a-sweep")


@pytest.mark.slow
def test_one_run_of_a_sweep_gives_identical_numbers(experiment, command):
    out, _ = command("reproduce", "1/1", "--keep", "kept")
    first, *_, last = out.splitlines()
    assert first == "this executes the source code stored in experiments/00001-a-sweep/source.tar.gz"
    assert "seed=2" in out
    assert last.startswith("identical: 0 of ") and "in 4 rows" in last
    kept, other = (read_metrics(Path(path) / "metrics.csv") for path in ("kept", experiment / "runs/0-seed=1"))
    assert [row["train_loss"] for row in kept] != [row["train_loss"] for row in other]


@pytest.mark.slow
def test_a_changed_number_of_one_run_is_found(experiment, command):
    metrics = experiment / "runs/0-seed=1/metrics.csv"
    value = read_metrics(metrics)[2]["train_loss"]
    metrics.write_text(metrics.read_text().replace(repr(value), repr(value * 1.01)))
    _, error = command("reproduce", "1/0", expect=5)
    assert "experiments/00001-a-sweep/runs/0-seed=1/metrics.csv: changed since it was archived" in error
    entry = json.loads((experiment / "manifest.json").read_text())
    entry["files"]["runs/0-seed=1/metrics.csv"] |= {"sha256": file_sha256(metrics), "bytes": metrics.stat().st_size}
    (experiment / "manifest.json").write_text(json.dumps(entry))
    out, error = command("reproduce", "1/0", expect=5)
    assert "first    step 2, train_loss" in out
    assert error == "gpt2lab: experiments/00001-a-sweep/runs/0-seed=1: its numbers were not reproduced\n"


def test_a_whole_sweep_is_refused_with_its_jobs_and_nothing_is_executed(experiment, command):
    out, error = command("reproduce", "1", expect=5)
    assert out == ""
    assert "is a sweep of 2 runs, expected one of them, 1/JOB: 0-seed=1, 1-seed=2" in error


@pytest.mark.parametrize("file", ["source.tar.gz", "runs/1-seed=2/config.yaml", "runs/1-seed=2/overrides.yaml"])
def test_a_missing_or_changed_file_is_named_and_nothing_is_executed(experiment, file):
    path = experiment / file
    run = experiment / "runs/1-seed=2"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ArchiveError, match=rf"{file}: changed since it was archived .*: nothing was executed"):
        plan_reproduction(run, experiment.parent)
    path.unlink()
    with pytest.raises(ArchiveError, match=rf"{file}: missing"):
        plan_reproduction(run, experiment.parent)


def test_the_source_of_a_run_of_a_sweep_lies_above_its_runs(experiment):
    assert source_of(experiment / "runs/1-seed=2") == experiment / "source.tar.gz"
    (experiment / "sweep.json").unlink()
    assert source_of(experiment / "runs/1-seed=2") == experiment / "runs/1-seed=2" / "source.tar.gz"


def test_a_run_can_start_from_the_weights_of_one_run_of_a_sweep(experiment, capsys):
    assert run_main([*RUN, "model.init_from=1/1", "train.max_steps=0", "hydra.run.dir=next"]) == 0
    start, end = (read_metrics(Path(path) / "metrics.csv") for path in ("next", experiment / "runs/1-seed=2"))
    assert start[0]["val_loss"] == pytest.approx(end[-1]["val_loss"], rel=1e-6)
    capsys.readouterr()
    assert run_main([*RUN, "model.init_from=1", "hydra.run.dir=other"]) == 5
    assert "is a sweep of 2 runs, expected one of them, 1/JOB" in capsys.readouterr().err
