"""The jobs of a grid: known, checked and counted before the first of them starts."""

from pathlib import Path

import pytest
from tiny_runs import QUIET, status

from gpt2lab.compose.grid import check_grid, expand
from gpt2lab.errors import ConfigError
from gpt2lab.record.rundir import find_runs
from gpt2lab.run import main


def test_a_grid_is_what_hydra_makes_of_the_command_line():
    jobs = expand(["-m", "seed=1,2", "optim.weight_decay=0,0.1", "train.max_steps=3", "task_position=[1,2]"])
    assert len(jobs) == 4
    assert jobs[0] == ["seed=1", "optim.weight_decay=0", "train.max_steps=3", "task_position=[1,2]"]
    assert jobs[3][:2] == ["seed=2", "optim.weight_decay=0.1"]
    assert len(expand(["--multirun", "seed=range(0,5)", "model=choice(mini,grokking)"])) == 10


def test_an_experiment_that_is_a_grid_needs_no_flag_and_can_be_changed():
    assert len(expand(["experiment=banded_comparison"])) == 9
    assert len(expand(["experiment=banded_comparison", "fc1_band=0,64", "seed=1,2"])) == 2 * 3 * 2
    assert expand(["experiment=grokking"]) == []
    assert expand(["seed=1"]) == []


def test_values_outside_the_schema_are_found_in_whichever_job_they_stand():
    with pytest.raises(ConfigError, match=r"job 1 of the grid \(sparsity=dense fc1_band=64\): fc1_band"):
        check_grid(["-m", "sparsity=dense", "fc1_band=0,64"])
    with pytest.raises(ConfigError, match=r"job 2 of the grid \(model\.n_head=3\): .*not divisible"):
        check_grid(["-m", "model.n_head=2,4,3"])


def test_the_same_run_written_twice_is_named():
    assert check_grid(["-m", "seed=1,1,2,1"]) == {1: 0, 3: 0}
    assert check_grid(["-m", "optim.weight_decay=0.1,1e-1", "seed=1,2"]) == {2: 0, 3: 1}


def test_a_bad_job_stops_a_grid_before_its_first_run(workplace, capsys):
    assert main(["-m", *QUIET, "train.max_steps=1", "optim.beta1=0.9,1.5"]) == 2
    assert "job 1 of the grid" in (error := capsys.readouterr().err)
    assert "optim.beta1=1.5" in error
    assert error.count("\n") == 1
    assert not list(Path().rglob("status.json"))


def test_a_run_that_stands_twice_in_a_grid_runs_once(workplace, capsys):
    assert main(["-m", *QUIET, "train.max_steps=1", "seed=5,5,6"]) == 0
    assert "job 1 is the same run as job 0: left out" in capsys.readouterr().out
    runs = [run for run in find_runs(Path("runs")) if status(run)["state"] == "finished"]
    assert sorted(run.name for run in runs) == ["0", "2"]
