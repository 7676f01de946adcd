"""Fixtures that several test files share."""

import gc
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import requests

# How long an example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

# One thread a process: tests run two at a time, and OpenMP threads that wait for each other on busy cores are slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what it runs in the background with SIGINT ignored, and tests send that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of files that llm.c itself computed; its README says how."""
    return PROJECT / "tests" / "data" / "llmc-small"


@pytest.fixture(scope="session")
def tracked_files() -> list[str]:
    """Paths, from the project's root, of the files that git tracks or would track."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(listing, cwd=PROJECT, capture_output=True, text=True, check=False)
    names = [name for name in result.stdout.split("\0") if (PROJECT / name).is_file()]
    if not names:
        pytest.skip("this copy of the project is not a git checkout")
    return names


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """tools/gpu_check.py, with its package `gpu`."""
    monkeypatch.syspath_prepend(PROJECT / "tools")
    monkeypatch.setattr(sys, "path", list(sys.path))  # it adds folders of its own
    module = importlib.import_module("gpu_check")
    gc.freeze()  # it collects garbage before each measurement: not among all that the test session holds
    yield module
    gc.unfreeze()


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of tools/."""
    monkeypatch.syspath_prepend(PROJECT / "tools")
    return importlib.import_module


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Every request is refused, and not waited for."""

    def refuse(*_, **__) -> None:
        raise requests.ConnectionError("<urllib3 object at 0x7f>: [Errno -3]")

    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setattr("gpt2lab.data.download.RETRY_WAIT_S", 0)


@pytest.fixture
def data_folder(tmp_path, monkeypatch) -> Path:
    """The data folder, which does not exist yet."""
    monkeypatch.setenv("GPT2LAB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty current directory, and no W&B account."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., tuple[str, str]]:
    """Runs a `gpt2lab` command line and returns what it printed: (stdout, stderr)."""
    from gpt2lab.cli import main

    def run(*arguments: str, expect: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["gpt2lab", *arguments])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        assert code == expect
        output = capsys.readouterr()
        return output.out, output.err

    return run
