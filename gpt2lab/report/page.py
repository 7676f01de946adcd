"""What the pages of a run and of a sweep have in common, and how any page is written."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt2lab.record.disk import disk_errors, json_bytes, write_atomic
from gpt2lab.record.identity import WRITTEN_BY, report_hash
from gpt2lab.record.provenance import read_versions
from gpt2lab.record.source_archive import find_source_root
from gpt2lab.report.canvas import Picture
from gpt2lab.report.comparison_page.words import lowered
from gpt2lab.report.inputs import Inputs
from gpt2lab.report.markdown import fence
from gpt2lab.report.method import method_tables
from gpt2lab.report.notes import merge_notes, take_section
from gpt2lab.report.origin import how_to, provenance_table
from gpt2lab.report.templates import template

LIBRARIES = ("jinja2", "matplotlib", "numpy", "scipy")
RECORD = (
    "sweep.json",
    "config.yaml",
    "overrides.yaml",
    "metrics.csv",
    "summary.json",
    "provenance.json",
    "status.json",
    "noise.json",
    "notes.md",
    "source.tar.gz",
    "runs/",
)


@functools.cache
def written_by() -> dict[str, str]:
    """Return `report_hash` of the report code of this process, and the versions of the libraries that it uses."""
    return {"report_hash": report_hash(find_source_root()), **read_versions(LIBRARIES)}


def write_summary(directory: Path, summary: dict[str, Any]) -> None:
    """Write summary.json, with what its bytes depend on beside the record."""
    write_atomic(directory / "summary.json", json_bytes(summary | {WRITTEN_BY: written_by()}))


def write_page(directory: Path, name: str, context: dict[str, Any], draw: Callable[[Path], list[Picture]]) -> Path:
    """Write README.md from the template `name` and `context`, and the figures that `draw` puts into figures/.

    Returns the page. Raises ArchiveError for what cannot be written.
    """
    figures, page = directory / "figures", directory / "README.md"
    with disk_errors("write", figures):
        figures.mkdir(parents=True, exist_ok=True)
        pictures = draw(figures)
    write_atomic(page, template(name).render(context, pictures=pictures).encode())
    return page


def in_short(text: str) -> str:
    """Return the line of a page that says what came out; "" for nothing."""
    return f"In short: {text}." if text else ""


def shared_context(
    directory: Path, inputs: Inputs, summary: dict[str, Any], telling: list[str], *, notes: str, command: str
) -> dict[str, Any]:
    """Return what a page says of a run, or of what the runs of a sweep have in common; `telling` are verdicts."""
    kind = summary.get("kind", "run")
    question, rest = take_section(notes, "Question")
    return {
        "title": summary["name"],
        "in_short": in_short("; ".join(map(lowered, telling))),
        "question": merge_notes(question),
        "hypothesis": summary["hypothesis"],
        "kind": kind,
        "method": method_tables(inputs, summary, kind) if inputs.config else [],
        "notes": merge_notes("\n\n".join(take_section(rest, "Notes"))),  # the page has its own heading of that name
        "command": fence(command, "sh"),
        "how_to": how_to(inputs),
        "provenance": provenance_table(inputs),
        "files": [file for file in RECORD if (directory / file).exists()],
    }
