"""Reports computed from the record of a run; nothing here needs torch, the data or the engine."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2lab.report.summary import summarise


def freeze_noise(directory: Path, archive: Iterable[tuple[Path, dict[str, Any]]]) -> None:
    """Write what an archive adds to the noise floor of the sweep in `directory`, (directory, provenance) of each."""
    from gpt2lab.report.comparison.sweep_results import freeze_noise as write

    write(directory, archive)


def write_report(directory: Path, title: str) -> None:
    """Write summary.json, figures/ and README.md of the record in `directory`. Raises ArchiveError."""
    from gpt2lab.report.readme import write_report as write  # matplotlib, which a comparison does without

    write(directory, title)
