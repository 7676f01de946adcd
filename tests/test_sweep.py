"""Sweeps: run, stopped in every way, started again, and never mixed with what was run before."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import QUIET, assert_same_state, numbers, status, stop_at

from gpt2lab.record.lock import acquire
from gpt2lab.record.sweep import Sweep, read_state, read_sweep
from gpt2lab.run import main

SHORT = [*QUIET, "train.max_steps=2", "train.eval_every=0"]


def sweeps() -> list[Sweep]:
    return [read_sweep(path.parent) for path in sorted(Path("runs/sweeps").glob("*/*/sweep.json"))]


def words(sweep: Sweep) -> list[str]:
    return [read_state(sweep.run_dir(job)).word for job in sweep.jobs]


def started(sweep: Sweep) -> list[str]:
    """When each job started: the same moment again for one that was left alone."""
    return [status(sweep.run_dir(job))["started"] for job in sweep.jobs]


def test_a_grid_runs_in_one_directory_and_its_plan_says_what_varies(workplace, capsys):
    assert main(["-m", *SHORT, "seed=5,6", "optim.weight_decay=0,0.1", "name=two by two"]) == 0
    [sweep] = sweeps()
    assert sweep.path.name.endswith("-two-by-two")
    assert sweep.varies == ("seed", "optim.weight_decay")
    assert [job.folder for job in sweep.jobs][:2] == ["runs/0-seed=5-weight_decay=0", "runs/1-seed=5-weight_decay=0.1"]
    assert words(sweep) == ["finished"] * 4
    hashes = [json.loads((sweep.run_dir(job) / "provenance.json").read_text())["config_hash"] for job in sweep.jobs]
    assert hashes == [job.config_hash for job in sweep.jobs]
    shown = capsys.readouterr().out
    assert "job 3  seed=6 optim.weight_decay=0.1  (3 of 4 done, about " in shown
    assert "4 jobs, 4 finished" in shown


def test_a_run_that_stands_twice_in_a_grid_runs_once(workplace, capsys):
    assert main(["-m", *SHORT, "seed=5,5,6"]) == 0
    assert "job 1 of the grid is the same run as job 0: left out" in capsys.readouterr().out
    assert [job.values for job in sweeps()[0].jobs] == [{"seed": 5}, {"seed": 6}]


def test_the_same_sweep_again_runs_nothing(workplace):
    for _ in range(2):
        assert main(["-m", *SHORT, "seed=5,6"]) == 0
    [sweep] = sweeps()
    before = started(sweep)
    assert main(["-m", *SHORT, "seed=6,5"]) == 0  # the same jobs in another order
    assert started(sweeps()[0]) == before[::-1]


def test_a_changed_config_is_another_sweep(workplace):
    assert main(["-m", *SHORT, "seed=5,6"]) == 0
    assert main(["-m", *SHORT, "seed=5,6", "optim.beta2=0.9"]) == 0
    assert len(sweeps()) == 2


def test_a_larger_grid_in_the_same_directory_runs_what_is_new(workplace, capsys):
    assert main(["-m", *SHORT, "seed=5,6", "hydra.sweep.dir=s"]) == 0
    before = started(read_sweep(Path("s")))
    assert main(["-m", *SHORT, "seed=6,7", "hydra.sweep.dir=s"]) == 0
    sweep = read_sweep(Path("s"))
    assert [(job.number, job.values["seed"]) for job in sweep.jobs] == [(1, 6), (2, 7)]
    assert started(sweep)[0] == before[1]
    assert "s/runs/0-seed=5 is no job of this grid: left there, not counted" in capsys.readouterr().out


def test_a_failed_job_does_not_stop_the_others_and_is_tried_again_when_asked(workplace, capsys):
    grid = ["-m", *SHORT, "optim.learning_rate=1e-3,1e12", "optim.grad_clip=0", "schedule=constant", "seed=5,6"]
    assert main(grid) == 4
    assert words(sweeps()[0]) == ["finished", "finished", "diverged", "diverged"]
    shown = capsys.readouterr()
    assert "4 jobs, 2 finished, 2 diverged" in shown.out
    assert "  job 2  optim.learning_rate=1e+12 seed=5  diverged: step " in shown.out
    before = started(sweeps()[0])
    assert main(grid) == 4
    assert started(sweeps()[0]) == before
    assert main([*grid, "sweep.mode=retry_failed"]) == 4
    [sweep] = sweeps()
    assert [a == b for a, b in zip(started(sweep), before, strict=True)] == [True, True, False, False]
    assert sweep.jobs[2].folder.endswith("+2")


def test_force_runs_everything_anew_and_keeps_what_was(workplace):
    assert main(["-m", *SHORT, "seed=5,6"]) == 0
    assert main(["-m", *SHORT, "seed=5,6", "sweep.mode=force"]) == 0
    first, second = sweeps()
    assert first.sweep_id != second.sweep_id
    assert words(first) == words(second) == ["finished"] * 2


def test_fail_fast_starts_nothing_after_a_failure(workplace):
    grid = ["-m", *SHORT, "optim.learning_rate=1e12,1e-3", "optim.grad_clip=0", "schedule=constant"]
    assert main([*grid, "sweep.fail_fast=true"]) == 4
    assert words(sweeps()[0]) == ["diverged", "not started"]
    assert main(grid) == 4
    assert words(sweeps()[0]) == ["diverged", "finished"]


def test_a_job_that_is_refused_by_its_data_stops_the_sweep_before_it_starts(workplace, capsys):
    assert main(["-m", *SHORT, "data=modular", "data.prime=11", "task_position=4,12"]) == 2
    assert "job 1 of the grid (task_position=12): task_position=12: positions" in capsys.readouterr().err
    assert not list(Path().rglob("status.json"))


def test_a_job_that_fails_before_its_record_says_why_in_its_directory(workplace, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such luck")

    monkeypatch.setattr("gpt2lab.run.starting_checkpoint", lambda config: config.model.init_from)
    monkeypatch.setattr("gpt2lab.train.execute", broken)
    assert main(["-m", *SHORT, "seed=5,6"]) == 1
    [sweep] = sweeps()
    assert words(sweep) == ["failed", "failed"]
    assert read_state(sweep.run_dir(sweep.jobs[0])).reason == "RuntimeError('no such luck')"


def test_ctrl_c_stops_the_sweep_and_the_same_command_goes_on_to_the_same_bits(workplace, monkeypatch, capsys):
    grid = ["-m", *QUIET, "train.max_steps=9", "train.eval_every=0", "seed=5,6"]
    assert main([*grid, "hydra.sweep.dir=whole"]) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 4, signal.SIGINT)
        assert main(grid) == 130
    assert words(sweeps()[0]) == ["interrupted", "not started"]
    assert "archive it as it is: gpt2lab snapshot runs/sweeps/" in capsys.readouterr().out
    assert main(grid) == 0
    [sweep] = sweeps()
    whole = read_sweep(Path("whole"))
    for job, same in zip(sweep.jobs, whole.jobs, strict=True):
        assert numbers(sweep.run_dir(job)) == numbers(whole.run_dir(same))
        assert_same_state(sweep.run_dir(job), whole.run_dir(same))


def test_a_sweep_can_be_resumed_by_its_directory(workplace, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        assert main(["-m", *SHORT, "seed=5,6"]) == 130
    [sweep] = sweeps()
    assert main([f"resume={sweep.path}"]) == 0
    assert words(sweeps()[0]) == ["finished"] * 2


def test_a_killed_sweep_goes_on_from_its_last_checkpoint(workplace):
    steps = ["train.max_steps=400", "train.checkpoint_every=20", "train.eval_every=0", "schedule=constant"]
    grid = ["-m", *QUIET, *steps, "seed=5,6", "hydra.sweep.dir=s"]
    process = subprocess.Popen([sys.executable, "-m", "gpt2lab.run", *grid], stdout=subprocess.DEVNULL)
    first = Path("s/runs/0-seed=5")
    while not (first / "state.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert read_state(first).word == "killed"
    assert main(grid) == 0
    assert status(first)["resumes"][0]["step"] >= 20
    assert [row["step"] for row in numbers(first)] == list(range(401))


@pytest.mark.parametrize("what", ["source", "data"])
def test_other_source_or_data_runs_a_job_again_beside_what_it_left(workplace, monkeypatch, capsys, what):
    Path("text.txt").write_text("one fine day in the middle of the night " * 200)
    grid = ["-m", *SHORT, "data=text", "data.path=text.txt", "seed=5,6", "hydra.sweep.dir=s"]
    assert main(grid) == 0
    if what == "data":
        Path("text.txt").write_text("two dead boys got up to fight again and " * 200)
    else:
        monkeypatch.setattr("gpt2lab.sweep.run.source_hash", lambda root: "0" * 64)
    capsys.readouterr()
    assert main(grid) == 0
    shown = capsys.readouterr().out
    assert f"job 0 (seed=5) runs again: {'its data' if what == 'data' else 'the source'} has changed since" in shown
    assert [job.folder for job in read_sweep(Path("s")).jobs] == ["runs/0-seed=5+2", "runs/1-seed=6+2"]
    assert status(Path("s/runs/0-seed=5"))["state"] == "finished"


def test_two_processes_do_not_run_the_same_sweep(workplace, capsys):
    assert main(["-m", *SHORT, "seed=5,6"]) == 0
    acquire(sweeps()[0].path)
    assert main(["-m", *SHORT, "seed=5,6"]) == 5
    assert "is running in it; wait for it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("sweep.baseline='seed=7'", "no job of the grid has these values; expected KEY=VALUE words"),
        ("sweep.metric=lr", "sweep.metric=lr: no result of a run; expected one of train_loss"),
        ("sweep.mode=again", "expected one of resume, retry_failed, force"),
    ],
)
def test_a_setting_of_the_sweep_that_cannot_be_is_one_line(workplace, capsys, setting, says):
    assert main(["-m", *SHORT, "seed=5,6", setting]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(Path().rglob("sweep.json"))


def test_the_baseline_is_written_into_the_plan(workplace):
    assert main(["-m", *SHORT, "seed=5,6", "optim.weight_decay=0,0.1", "sweep.baseline='optim.weight_decay=0.1'"]) == 0
    assert sweeps()[0].baseline == {"optim.weight_decay": 0.1}


def test_several_processes_run_a_sweep_that_is_read_from_the_disk(workplace, capsys):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    grid = ["-m", *SHORT, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "schedule=constant", "optim.grad_clip=0"]
    assert main([*grid, "optim.learning_rate=1e-3,1e12", "seed=5"]) == 4
    [sweep] = sweeps()
    assert words(sweep) == ["finished", "diverged"]
    shown = capsys.readouterr().out
    assert "job 1 diverged: step" in shown and "2 jobs, 1 finished, 1 diverged" in shown
    assert "finished at step 2" in (sweep.run_dir(sweep.jobs[0]) / "output.txt").read_text()
