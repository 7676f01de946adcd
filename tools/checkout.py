"""Which commit this checkout is at: what measurements are recorded with."""

import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RECORDS = "tools/benchmarks"  # what other cases have just measured changes nothing of what is measured


def read_commit(project: Path = PROJECT) -> str:
    """Return the commit of a checkout, with "-dirty" where files but records were changed, or "unknown"."""
    git = ["git", "-C", str(project)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = [*git, "diff", "--name-only", "HEAD", "--", ".", f":(exclude){RECORDS}"]
        changed = subprocess.run(changes, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit
