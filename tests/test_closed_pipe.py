"""Output that nobody reads any more, as in `gpt2lab list | head -1`: silent, and the exit code of SIGPIPE."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from gpt2lab.cli import main
from gpt2lab.errors import CLOSED_PIPE
from gpt2lab.record.sweep import read_state, read_sweep
from gpt2lab.run import main as run_main
from gpt2lab.sweep.board import Board
from gpt2lab.train.progress import Display
from tests.many_experiments import write_archive
from tests.tiny_runs import QUIET, status


@contextlib.contextmanager
def closed_pipe() -> Iterator[io.StringIO]:
    """stdout is a pipe that nobody reads; yields what stderr gets."""
    reader, writer = os.pipe()
    os.close(reader)
    with (
        os.fdopen(writer, "w") as stdout,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        yield errors


@pytest.mark.parametrize(
    "words", [["list"], ["show", "1"], ["sql", "--tables"], ["list", "--json"], ["--help"], ["list", "--help"]]
)
def test_a_command_ends_in_silence(tmp_path, monkeypatch, words):
    write_archive(tmp_path / "experiments", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpt2lab", *words])
    with pytest.raises(SystemExit) as stop, closed_pipe() as errors:
        main()
    assert (stop.value.code, errors.getvalue()) == (CLOSED_PIPE, "")


def test_an_error_that_nobody_reads_ends_in_silence(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stderr, contextlib.redirect_stderr(stderr):
        assert run_main(["nonsense=1"]) == CLOSED_PIPE


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"]])
def test_the_training_command_ends_in_silence(words):
    with closed_pipe() as errors:
        code = run_main(words)
    assert (code, errors.getvalue()) == (CLOSED_PIPE, "")


def test_a_run_whose_output_nobody_reads_is_interrupted(workplace, monkeypatch):
    def advance(_: Display, done: int) -> None:
        if done == 2:
            raise BrokenPipeError

    monkeypatch.setattr(Display, "advance", advance)
    monkeypatch.setattr("gpt2lab.run.Console", lambda **_: Console(file=io.StringIO()))
    with closed_pipe():
        assert run_main([*QUIET, "train.max_steps=3", "hydra.run.dir=run"]) == CLOSED_PIPE
    assert (status(Path("run"))["state"], status(Path("run"))["reason"]) == (
        "interrupted",
        "nobody read its output any more (closed pipe)",
    )


@pytest.mark.parametrize("place", ["say_started", "advance"])
def test_a_sweep_whose_output_nobody_reads_stops_and_is_not_archived(workplace, monkeypatch, place):
    def fail(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Board if place == "say_started" else Display, place, fail)
    with Path("out.txt").open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = run_main(["-m", *QUIET, "seed=1,2", "train.max_steps=3", "hydra.sweep.dir=sweep", "archive.mode=auto"])
    assert code == CLOSED_PIPE and not list(Path("experiments").glob("0*"))
    [first, second] = read_sweep(Path("sweep")).jobs
    begun = ["interrupted"] if place == "advance" else ["not started"]
    assert [read_state(Path("sweep", job.folder)).word for job in (first, second)] == [*begun, "not started"]


@pytest.mark.parametrize(("target", "code", "line"), [(">&-", 0, ""), ("> /dev/full", 5, "gpt2lab: output: no space")])
def test_output_that_cannot_be_written_is_no_fault_of_ours(tmp_path, target, code, line):
    command = f'"{sys.executable}" -c "from gpt2lab.cli import main; main()" list --root "{tmp_path}" {target}'
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.startswith(line), result.stderr.count("\n")) == (code, True, len(line) > 0)
