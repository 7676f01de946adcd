import re
from pathlib import Path

import pytest

from gpt2lab import compose
from gpt2lab.errors import ConfigError
from gpt2lab.schema import RunConfig, SparsityName, plain


def test_the_default_is_a_mini_model_on_pydocs():
    config = compose.compose([])
    assert (config.name, config.model.n_embd, config.data.source) == ("mini-pydocs", 128, "pydocs")
    assert config.fc1_band == config.fc2_band == 0


@pytest.mark.parametrize(
    ("overrides", "bands"),
    [
        (["sparsity=banded"], (256, 256)),
        (["sparsity=banded", "fc1_band=64"], (64, 256)),
        (["fc2_band=0", "sparsity=banded"], (256, 0)),
        (["experiment=banded_comparison"], (256, 256)),
    ],
)
def test_a_sparsity_option_sets_both_bands_and_an_override_wins(overrides, bands):
    config = compose.compose(overrides)
    assert (config.fc1_band, config.fc2_band) == bands
    assert config.sparsity is SparsityName.banded


def test_what_the_command_line_says_wins_over_an_experiment():
    config = compose.compose(["experiment=grokking", "data.prime=23", "model=mini", "masking=none"])
    assert (config.data.prime, config.model.n_embd, config.task_position) == (23, 128, None)
    assert config.name == "grokking"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.max_steps=3", "unknown key trian.max_steps: did you mean train.max_steps?"),
        ("max_steps=3", "unknown key max_steps: did you mean train.max_steps?"),
        ("+foo=3", "unknown key foo"),
        ("+train.foo=3", "unknown key train.foo"),
        ("model=minni", "model=minni: no such option (did you mean mini?); expected one of formal, gpt2,"),
        ("sparsity=thin", "sparsity=thin: no such option; expected one of banded, dense"),
        ("train.max_steps=1e3", "train.max_steps=1e3: expected a whole number, written out"),
        ("fc1_band=1.5", "fc1_band=1.5: expected a whole number"),
        ("fc1_band=true", "fc1_band=true: expected a whole number"),
        ("optim.learning_rate=fast", "optim.learning_rate=fast: expected a number"),
        ("optim.decay=some", "optim.decay=some: expected one of matrices, all"),
        ("engine.device=tpu", "engine.device=tpu: expected one of auto, cpu, cuda, mps"),
        ("train.stop_when=val_loss<2", "and quotes of its own around a value"),
        ("word", "expected KEY=VALUE"),
    ],
)
def test_a_mistake_is_explained_in_one_line(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        compose.compose([override])
    assert "\n" not in str(error.value)


def test_a_config_read_back_is_the_config():
    config = compose.compose(["experiment=grokking", "task_position=[3,4]"])
    assert compose.to_run_config(plain(config)) == config


def test_a_config_of_other_keys_is_refused():
    with pytest.raises(ConfigError, match="unknown key colour"):
        compose.to_run_config({"colour": "red"})


def test_known_keys_are_the_schema():
    keys = compose.known_keys()
    assert "train.max_steps" in keys
    assert "fc1_band" in keys
    assert len(keys) == len(set(keys)) > 60


def test_default_names_say_what_is_unusual():
    assert compose.compose(["sparsity=banded"]).name == "mini-pydocs-banded"
    assert compose.compose(["debug=fast"]).name == "mini-pydocs-fast"


def test_a_refused_config_leaves_no_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert compose.main(lambda job: 0, lambda grid: 1, ["fc1_band=4"]) == 2
    assert list(Path("runs").rglob("*.yaml")) == []
    assert "sparsity=banded" in capsys.readouterr().err


def test_a_run_gets_its_config_and_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs: list[compose.Job] = []
    for _ in range(2):
        assert compose.main(lambda job: jobs.append(job) or 0, lambda grid: 1, ["seed=3", "name=a b/../c"]) == 0
    assert [job.config.seed for job in jobs] == [3, 3]
    assert len({job.run_dir for job in jobs}) == 2
    assert all(job.run_dir.is_dir() and not job.run_dir.is_absolute() for job in jobs)
    assert isinstance(jobs[0].config, RunConfig)


def test_a_grid_is_handed_on_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grids: list[compose.Grid] = []
    assert compose.main(lambda job: 1, lambda grid: grids.append(grid) or 7, ["-m", "seed=1,2"]) == 7
    assert [job.config.seed for job in grids[0].jobs] == [1, 2]
    assert not list(tmp_path.iterdir())
