"""Every shipped YAML says how it is used, composes, and, where it is a whole run, runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt2lab import run
from gpt2lab.compose import compose, known_keys
from gpt2lab.record.metrics import read_metrics
from gpt2lab.schema import RunConfig, plain

CONF = Path(__file__).parent.parent / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
OPTIONS = [f"{file.parent.name}={file.stem}" for file in FILES if file.parent != CONF]
WHOLE_RUNS = [
    option for option in OPTIONS if option.startswith(("experiment=", "debug=")) and option != "debug=diverge"
]
SWEEPS = {"experiment=banded_comparison": 9, "experiment=grokking_sweep": 6, "experiment=band_cost": 6}  # of one seed

SHORT = (
    "tracker=none",
    "archive.mode=off",
    "sample.count=0",
    "train.max_steps=2",
    "train.eval_batches=1",
    "train.log_every=1",
    "model.n_embd=16",
)


def read_yaml(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def is_global(file: Path) -> bool:
    """Whether the keys of a group's file are root keys."""
    return file.read_text(encoding="utf-8").startswith("# @package _global_\n")


def dotted(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys of nested settings, those in between included."""
    keys = []
    for key, value in settings.items():
        keys.append(prefix + key)
        keys += dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return keys


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CONF).as_posix())
def test_a_file_begins_with_the_command_that_uses_it_and_is_short(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert 2 <= len(lines) <= 25
    command = next(line for line in lines if line != "# @package _global_")
    if file.parent == CONF:
        assert re.match(r"# python -m gpt2lab\.run\s", command)
        return
    group, option = file.parent.name, file.stem
    assert re.match(rf"# python -m gpt2lab\.run .*\b{group}[=.]\S+.*: \S", command)
    assert f"{group}={option}" in command or list(file.parent.glob("*.yaml")) == [file]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CONF).as_posix())
def test_a_file_sets_keys_of_the_schema_only(file: Path) -> None:
    settings = {key: value for key, value in read_yaml(file).items() if key not in ("defaults", "hydra")}
    prefix = "" if file.parent == CONF or is_global(file) else f"{file.parent.name}."
    assert set(dotted(settings, prefix)) <= set(known_keys())


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_composes_and_sets_what_its_file_says(option: str) -> None:
    group, name = option.split("=")
    file = CONF / group / f"{name}.yaml"
    config = plain(compose([option]))
    assert_holds(config if is_global(file) else config[group], read_yaml(file))


def assert_holds(config: dict[str, Any], settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, dict) and key != "hydra":
            assert_holds(config[key], value)
        elif key not in ("defaults", "hydra"):
            other = re.fullmatch(r"\$\{(\w+)\}", str(value))  # follows another root key
            assert config[key] == (config[other[1]] if other else value), key


def test_the_default_config_is_the_schema_and_the_files_that_config_yaml_names() -> None:
    expected = plain(RunConfig())
    for entry in read_yaml(CONF / "config.yaml")["defaults"]:
        [(group, option)] = entry.items() if isinstance(entry, dict) else [(entry, None)]
        if option is None or group.startswith("override "):
            continue
        file = CONF / group / f"{option}.yaml"
        (expected if is_global(file) else expected[group]).update(read_yaml(file))
    config = compose([])
    assert config.name == "mini-pydocs"  # made from the choices
    assert plain(config) == {**expected, "name": config.name}


def test_choosing_every_default_by_hand_changes_nothing() -> None:
    entries = read_yaml(CONF / "config.yaml")["defaults"]
    choices = [f"{group}={option}" for entry in entries if isinstance(entry, dict) for group, option in entry.items()]
    chosen = [choice for choice in choices if not choice.startswith("override ") and not choice.endswith("=None")]
    assert len(chosen) >= 8
    assert plain(compose(chosen)) == plain(compose([]))


@pytest.mark.parametrize("option", [pytest.param(o, marks=pytest.mark.slow) if o in SWEEPS else o for o in WHOLE_RUNS])
def test_a_whole_run_runs_two_steps(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = SWEEPS.get(option, 1)
    assert run.main([option, *SHORT, *(["seed=1"] if runs > 1 else [])]) == 0
    metrics = list(tmp_path.glob("runs/**/metrics.csv"))
    assert len(metrics) == runs
    for file in metrics:
        rows = read_metrics(file)
        assert [row["step"] for row in rows] == [0, 1, 2]
        assert rows[-1]["val_loss"] is not None


def test_the_preset_that_diverges_ends_with_exit_code_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main(["debug=diverge"]) == 4
    [message] = capsys.readouterr().err.splitlines()
    assert re.match(r"gpt2lab: .*step \d+", message)
