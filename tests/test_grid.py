"""The jobs of a grid: known, checked and counted before the first of them starts."""

from pathlib import Path

import pytest
from tiny_runs import QUIET

from gpt2lab.compose.grid import Grid, expand
from gpt2lab.errors import ConfigError
from gpt2lab.run import main


def grid_of(*arguments: str) -> Grid:
    grid = expand(arguments)
    assert grid is not None
    return grid


def test_a_grid_is_what_hydra_makes_of_the_command_line():
    grid = grid_of("-m", "seed=1,2", "optim.weight_decay=0,0.1", "train.max_steps=3", "task_position=[1,2]")
    assert len(grid.jobs) == 4
    assert grid.jobs[0].overrides == ("seed=1", "optim.weight_decay=0", "train.max_steps=3", "task_position=[1,2]")
    assert grid.jobs[3].values == {"seed": 2, "optim.weight_decay": 0.1}
    assert grid.jobs[3].config.optim.weight_decay == 0.1
    assert grid.varies == ("seed", "optim.weight_decay")
    assert len(grid_of("--multirun", "seed=range(0,5)", "model=choice(mini,grokking)").jobs) == 10


def test_what_is_about_hydra_belongs_to_the_sweep_and_not_to_a_job():
    grid = grid_of("-m", "seed=1,2", "hydra/launcher=basic", "hydra.sweep.dir='my sweeps/one'")
    assert grid.jobs[0].overrides == ("seed=1",)
    assert grid.directory == Path("my sweeps/one")
    assert not grid.parallel
    assert not grid.elsewhere
    assert grid_of("-m", "seed=1,2").directory is None


@pytest.mark.parametrize(
    ("given", "directory"),
    [
        ("++hydra.sweep.dir=s", "s"),
        ("hydra.sweep.dir='it\\'s'", "it's"),
        ('hydra.sweep.dir="s/${seed_of_all}"', None),
        ("hydra.sweep.dir=", None),
    ],
)
def test_the_directory_of_a_sweep_is_what_hydra_makes_of_it(given, directory):
    if directory is None:
        with pytest.raises(ConfigError):
            expand(["-m", "seed=1,2", given])
    else:
        assert grid_of("-m", "seed=1,2", given).directory == Path(directory)


@pytest.mark.parametrize(
    ("file", "what"), [("manifest.json", "an experiment of the archive"), ("status.json", "a single run")]
)
def test_a_directory_that_holds_something_else_is_no_place_for_a_sweep(tmp_path, file, what):
    (tmp_path / file).write_text("{}")
    with pytest.raises(ConfigError, match=what):
        expand(["-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}"])


def test_a_key_that_is_put_in_by_force_varies_under_its_own_name():
    grid = grid_of("-m", "++seed=1,2", "+tags=[[a],[b]]")
    assert grid.varies == ("seed",)
    assert grid.jobs[1].values == {"seed": 2}
    assert grid.jobs[1].overrides[0] == "++seed=2"


def test_an_experiment_that_is_a_grid_needs_no_flag_and_can_be_changed():
    assert len(grid_of("experiment=banded_comparison", "seed=1").jobs) == 9
    assert len(grid_of("experiment=banded_comparison", "fc1_band=0,64", "fc2_band=0", "seed=1,2").jobs) == 4
    assert expand(["experiment=grokking"]) is None
    assert expand(["seed=1"]) is None


def test_values_outside_the_schema_are_found_in_whichever_job_they_stand():
    with pytest.raises(ConfigError, match=r"job 1 of the grid \(sparsity=dense fc1_band=64\): fc1_band"):
        expand(["-m", "sparsity=dense", "fc1_band=0,64"])
    with pytest.raises(ConfigError, match=r"job 2 of the grid \(model\.n_head=3\): .*not divisible"):
        expand(["-m", "model.n_head=2,4,3"])


def test_a_sweeper_that_makes_its_jobs_as_it_goes_is_refused():
    with pytest.raises(ConfigError, match="gpt2lab runs grids"):
        expand(["-m", "seed=1,2", "hydra.sweeper._target_=hydra_plugins.other.Other"])


def test_a_bad_job_stops_a_grid_before_its_first_run(workplace, capsys):
    assert main(["-m", *QUIET, "train.max_steps=1", "optim.beta1=0.9,1.5"]) == 2
    assert "job 1 of the grid" in (error := capsys.readouterr().err)
    assert "optim.beta1=1.5" in error
    assert error.count("\n") == 1
    assert not list(Path().rglob("status.json"))
