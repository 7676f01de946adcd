"""Fixtures that several test files share."""

import os
import subprocess
from pathlib import Path

import pytest

# One thread a process: tests run two at a time, and OpenMP threads that wait for each other on busy cores are slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PROJECT = Path(__file__).parent.parent
GOLDEN = PROJECT.parent / "shared" / "golden" / "llmc-small"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of files that llm.c itself computed."""
    if not GOLDEN.is_dir():
        pytest.skip("the files that llm.c computed are not on this machine")
    return GOLDEN


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
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty current directory, and no W&B account."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    return tmp_path
