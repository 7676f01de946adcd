"""Which commit this checkout is at: what measurements are recorded with."""

import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def read_commit() -> str:
    """Return the commit of this checkout, with "-dirty" where files were changed, or "unknown"."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
