"""README.md of one run: a report that is computed from the record and can be written again at any time.

The template says where things stand; this file says what they are. Every value a template prints is escaped,
unless it is `Markdown` already, so no name, note or sample can change the page.
"""

import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gpt2lab.record.columns import SPLITS, evaluated
from gpt2lab.record.disk import disk_errors, json_bytes, write_atomic
from gpt2lab.record.identity import WRITTEN_BY
from gpt2lab.record.sweep import is_sweep
from gpt2lab.report import markdown
from gpt2lab.report.comparison_page.page import write_sweep_report
from gpt2lab.report.figures import draw_figures
from gpt2lab.report.inputs import Inputs, read_inputs
from gpt2lab.report.markdown import Markdown, escape
from gpt2lab.report.method import matrix_rows, read_method, status_line
from gpt2lab.report.notes import merge_notes, take_section
from gpt2lab.report.origin import day, how_to, provenance_rows, shell_word
from gpt2lab.report.results import SPLIT_NAMES, checkpoint_table, headline, measure_rows, speed_line
from gpt2lab.report.summary import summarise_inputs
from gpt2lab.report.templates import template
from gpt2lab.report.writer import written_by

MAX_SAMPLES = 3
MAX_SAMPLE_CHARS = 1200
RECORD = (
    "config.yaml",
    "overrides.yaml",
    "metrics.csv",
    "summary.json",
    "provenance.json",
    "status.json",
    "notes.md",
    "source.tar.gz",
)


def write_report(directory: Path, title: str) -> None:
    """Write summary.json, figures/ and README.md for the run or sweep in `directory`; the same bytes every time.

    Raises ArchiveError naming a file that is missing, damaged or cannot be written.
    """
    if is_sweep(directory):
        write_sweep_report(directory, title)
        return
    inputs = read_inputs(directory)
    summary = summarise_inputs(inputs, title) | {WRITTEN_BY: written_by()}
    write_atomic(directory / "summary.json", json_bytes(summary))
    with disk_errors("write", directory / "figures"):
        pictures = draw_figures(inputs, summary, directory / "figures")
    page = template("run.md.j2").render(_context(directory, inputs, summary, pictures))
    write_atomic(directory / "README.md", page.encode())


def _context(directory: Path, inputs: Inputs, summary: dict[str, Any], pictures: list[Any]) -> dict[str, Any]:
    question, notes = take_section(inputs.notes, "Question")
    # The page has its own heading of that name.
    notes = "\n\n".join(take_section(notes, "Notes"))
    columns, rows, caption = checkpoint_table(inputs, summary)
    updates = None if summary["steps"] is None else f"{summary['steps']:,} updates"
    splits = [split for split in SPLITS if summary[evaluated(split)["loss"].name] is not None]
    return {
        "title": summary["name"],
        "status": status_line(summary["status"] or "unknown status", [day(summary["date"]), updates], summary),
        "reason": summary["reason"],
        "headline": headline(inputs, summary),
        "in_short": "; ".join(_in_short(summary)),
        "question": merge_notes(question),
        "hypothesis": summary["hypothesis"],
        "method": read_method(inputs, summary),
        "matrices": matrix_rows(inputs),
        "n_layer": inputs.fact("provenance.model.n_layer"),
        "pictures": pictures,
        "measure_splits": [SPLIT_NAMES[split] for split in splits],
        "measures": measure_rows(inputs, summary, splits),
        "speed": speed_line(summary),
        "checkpoint_columns": columns,
        "checkpoints": rows,
        "checkpoint_caption": caption,
        "findings": summary["findings"],
        "notes": merge_notes(notes),
        "samples": _samples(inputs),
        "command": markdown.fence(_command(inputs), "sh"),
        "how_to": how_to(inputs),
        "provenance": provenance_rows(inputs),
        "files": [name for name in RECORD if (directory / name).exists()],
    }


def _in_short(summary: dict[str, Any]) -> list[str]:
    # One seed is true of every run, and no spikes is what is expected: both stay in the analysis.
    verdicts = [finding["verdict"] for finding in summary["findings"] if finding["topic"] != "seeds"]
    return [verdict[0].lower() + verdict[1:] for verdict in verdicts if verdict != "No loss spikes"]


def _samples(inputs: Inputs) -> list[dict[str, Markdown]]:
    shown = []
    for name, text in list(inputs.samples.items())[:MAX_SAMPLES]:
        link = Markdown(f"[{escape(name)}](samples/{quote(name)})")
        cut = ", its beginning:" if len(text) > MAX_SAMPLE_CHARS else ":"
        shown.append({"link": link, "cut": Markdown(cut), "text": markdown.fence(text[:MAX_SAMPLE_CHARS])})
    return shown


def _command(inputs: Inputs) -> str:
    typed = inputs.fact("provenance.command")
    if not inputs.overrides and typed:
        return shlex.join(map(str, typed))
    # A continued run is run again from its beginning.
    overrides = [shell_word(item) for item in inputs.overrides if not item.startswith("resume=")]
    command = " ".join(["python -m gpt2lab.run", *overrides])
    return command if len(command) <= 100 else " \\\n  ".join(["python -m gpt2lab.run", *overrides])
