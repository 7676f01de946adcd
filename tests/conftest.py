"""Fixtures that several test files share."""

from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
GOLDEN = PROJECT.parent / "shared" / "golden" / "llmc-small"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of files that llm.c itself computed."""
    if not GOLDEN.is_dir():
        pytest.skip("the files that llm.c computed are not on this machine")
    return GOLDEN
