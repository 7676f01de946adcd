"""Fixtures that several test files share."""

import os
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
