"""Sweeps: planned, handed out, and what becomes of their jobs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_sweeps import SHORT, sweeps, words

from gpt2lab.compose import launch
from gpt2lab.record.lock import acquire
from gpt2lab.record.sweep import read_state
from gpt2lab.run import main


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


def test_the_command_names_an_axis_once_when_it_takes_the_place_of_an_experiments(workplace):
    assert main([*SHORT, "experiment=band_cost", "fc1_band=32,0", "seed=1"]) == 0
    [sweep] = sweeps()
    assert [job.values for job in sweep.jobs] == [{"fc1_band": 32}, {"fc1_band": 0}]
    axes = [item for item in sweep.command if item.startswith(("fc1_band", "seed"))]
    assert axes == ["fc1_band=32,0", "seed=1"]


def test_a_run_that_stands_twice_in_a_grid_runs_once(workplace, capsys):
    assert main(["-m", *SHORT, "seed=5,5,6"]) == 0
    assert "job 1 of the grid is the same run as job 0: left out" in capsys.readouterr().out
    assert [job.values for job in sweeps()[0].jobs] == [{"seed": 5}, {"seed": 6}]
    assert main(["-m", *SHORT, "optim.weight_decay=0.1,1e-1", "seed=5"]) == 0
    assert len(sweeps()[1].jobs) == 1


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


def test_a_job_that_fails_before_its_record_says_why_in_its_directory(workplace, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no such luck")

    monkeypatch.setattr("gpt2lab.train.execute", broken)
    assert main(["-m", *SHORT, "seed=5,6"]) == 1
    [sweep] = sweeps()
    assert words(sweep) == ["failed", "failed"]
    first = sweep.run_dir(sweep.jobs[0])
    assert read_state(first).reason == "RuntimeError: no such luck"
    assert f"attach {first / 'traceback.txt'}" in capsys.readouterr().err
    assert "in broken" in (first / "traceback.txt").read_text()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.init_from=nope.bin", "job 0 of the grid (seed=5): nope.bin"),
        ("model.init_from=other", "job 0 of the grid (seed=5): model.n_embd=16, but model.init_from="),
        ("engine.device=mps", "job 0 of the grid (seed=5): engine.device=mps: PyTorch"),
    ],
)
def test_weights_and_devices_that_are_not_there_are_known_before_the_first_job(workplace, capsys, setting, says):
    if "other" in setting:
        assert main([*SHORT, "hydra.run.dir=other", "model.n_embd=32"]) == 0
    capsys.readouterr()
    assert main(["-m", *SHORT, "seed=5,6", setting]) in (2, 3)
    assert says in capsys.readouterr().err
    assert not list(Path("runs").rglob("status.json"))


def test_a_killed_worker_takes_only_its_own_jobs_with_it(workplace, monkeypatch, capsys):
    def die_once(worker, jobs, directory, of_hydra):
        if len(jobs) == 3:
            folder = directory / jobs[0][1]
            folder.mkdir(parents=True)
            (folder / "status.json").write_text('{"state": "running"}')
            raise RuntimeError("a worker was killed")
        launch(worker, jobs, directory, of_hydra)

    monkeypatch.setattr("gpt2lab.sweep.run.launch", die_once)
    assert main(["-m", *SHORT, "seed=5,6,7"]) == 1
    assert words(sweeps()[0]) == ["killed", "finished", "finished"]
    assert "the launcher ended with RuntimeError: a worker was killed" in capsys.readouterr().out


@pytest.mark.slow
def test_two_starts_at_once_are_one_sweep(workplace):
    command = [sys.executable, "-m", "gpt2lab.run", "-m", *SHORT, "seed=5,6"]
    codes = sorted(process.wait() for process in [subprocess.Popen(command) for _ in range(2)])
    assert codes in ([0, 5], [0, 0])  # refused, or after the other had ended
    assert len(sweeps()) == 1


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


def test_values_beyond_a_million_keep_their_size_in_the_name_of_a_folder(workplace):
    assert main(["-m", *SHORT, "optim.grad_clip=1e6,1e-6"]) == 0
    assert [job.folder for job in sweeps()[0].jobs] == ["runs/0-grad_clip=1e06", "runs/1-grad_clip=1e-06"]


def test_a_sweep_whose_launcher_gave_up_waits_for_another_start(workplace, monkeypatch, capsys):
    def give_up(worker, jobs, directory, of_hydra):
        raise ValueError("no workers")

    monkeypatch.setattr("gpt2lab.sweep.run.launch", give_up)
    grid = ["-m", *[item for item in SHORT if item != "archive.mode=off"], "seed=5,6"]
    assert main(grid) == 1
    shown = capsys.readouterr().out
    assert "the launcher ended with ValueError: no workers" in shown
    assert "continue python -m gpt2lab.run resume=runs/sweeps/" in shown
    assert not list(Path("experiments").glob("0*"))


def test_a_baseline_is_compared_as_a_number_where_it_is_one(workplace):
    assert main(["-m", *SHORT, "optim.learning_rate=0.001,0.002", "sweep.baseline='optim.learning_rate=1e-3'"]) == 0
    assert sweeps()[0].baseline == {"optim.learning_rate": 0.001}


def test_the_baseline_is_written_into_the_plan(workplace):
    assert main(["-m", *SHORT, "seed=5,6", "optim.weight_decay=0,0.1", "sweep.baseline='optim.weight_decay=0.1'"]) == 0
    assert sweeps()[0].baseline == {"optim.weight_decay": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "settings"),
    [("joblib", ["hydra.launcher.n_jobs=2"]), ("submitit_local", ["hydra.launcher.timeout_min=5"])],
)
def test_other_processes_run_a_sweep_that_is_read_from_the_disk(workplace, capsys, launcher, settings):
    plugin = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
    pytest.importorskip(plugin, reason=f"{plugin} is not installed")
    grid = ["-m", *SHORT, f"hydra/launcher={launcher}", *settings, "schedule=constant", "optim.grad_clip=0"]
    assert main([*grid, "optim.learning_rate=1e-3,1e12", "seed=5"]) == 4
    [sweep] = sweeps()
    assert words(sweep) == ["finished", "diverged"]
    shown = capsys.readouterr().out
    assert "job 1 diverged: step" in shown and "2 jobs, 1 finished, 1 diverged" in shown
    assert "finished at step 2" in (sweep.run_dir(sweep.jobs[0]) / "output.txt").read_text()
