"""Whose fault an error is: what a person is told, the exit code, and where the traceback of our own faults is kept."""

import json
from pathlib import Path

import pytest
import torch

from gpt2lab.engine.torch.engine import TorchEngine
from gpt2lab.errors import (
    ArchiveError,
    ConfigError,
    DataError,
    DivergedError,
    EngineError,
    Gpt2labError,
    InternalError,
    describe_error,
)
from gpt2lab.run import main
from tests.tiny_runs import TINY

ATTACH = "please report it and attach "


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ConfigError, 2), (EngineError, 2), (DataError, 3), (DivergedError, 4), (ArchiveError, 5)],
)
def test_a_users_error_is_its_own_words_and_its_exit_code(kind: type[Gpt2labError], code: int) -> None:
    assert describe_error(kind("model.n_head=3:\n  expected 4")) == ("model.n_head=3: expected 4", code)


def test_an_error_of_the_file_system_names_the_file() -> None:
    assert describe_error(PermissionError(13, "Permission denied", "runs/x")) == ("runs/x: permission denied", 5)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (InternalError("gelu_backward: the launch failed"), "gelu_backward: the launch failed"),
        (TypeError("bias_forward: missing x"), "TypeError: bias_forward: missing x"),
        (AssertionError("positions are distinct"), "AssertionError: positions are distinct"),
        (OSError("no name"), "OSError: no name"),
    ],
)
def test_our_own_fault_is_called_that_and_asks_for_a_report(error: Exception, what: str) -> None:
    line, code = describe_error(error)
    assert code == 1 and line.startswith(f"internal error: {what}; this is a fault of gpt2lab")
    assert line.endswith(ATTACH + "what the same command prints with GPT2LAB_TRACEBACK=1")


@pytest.mark.parametrize("raised", [TypeError("no such argument"), InternalError("the launch failed")])
def test_a_run_keeps_the_traceback_of_our_fault_and_the_line_names_it(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TorchEngine, "train_step", fail)
    assert main([*TINY, "hydra.run.dir=here"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert str(raised) in line and line.endswith(f"{ATTACH}here/traceback.txt, here/config.yaml, here/provenance.json")
    kept = Path("here/traceback.txt").read_text()
    assert "in fail" in kept and f"{type(raised).__name__}: {raised}" in kept
    status = json.loads(Path("here/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 1) and str(raised) in status["reason"]


def test_the_line_names_only_files_that_were_written(tmp_path, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("no such plan")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpt2lab.train.session.prepare_parts", fail)
    assert main([*TINY, "hydra.run.dir=here"]) == 1
    assert capsys.readouterr().err.endswith(f"{ATTACH}here/traceback.txt\n")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_too_little_memory_is_no_fault_of_ours(error, tmp_path, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TorchEngine, "_backward", fail)
    assert main([*TINY, "hydra.run.dir=here"]) == 2
    assert capsys.readouterr().err.startswith(f"gpt2lab: out of memory: {error}; free some")
    assert not Path("here/traceback.txt").exists()


def test_an_array_too_large_for_memory_is_no_fault_of_ours():
    line, code = describe_error(MemoryError("Unable to allocate 4.00 GiB"))
    assert code == 2 and line.startswith("out of memory: Unable to allocate 4.00 GiB; free")


def test_a_users_error_leaves_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise DivergedError("step 1: loss nan")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TorchEngine, "train_step", diverge)
    assert main([*TINY, "hydra.run.dir=here"]) == 4
    assert not Path("here/traceback.txt").exists()


def test_the_traceback_is_shown_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2LAB_TRACEBACK", "1")
    with pytest.raises(ConfigError):
        main(["model.n_head=5"])
