"""Reports computed from the record of a run; nothing here needs torch, the data or the engine."""

from pathlib import Path


def write_report(directory: Path, title: str) -> None:
    """Write summary.json, figures/ and README.md of the record in `directory`. Raises ArchiveError."""
    from gpt2lab.report.readme import write_report as write  # matplotlib, which a comparison does without

    write(directory, title)
