"""README.md of one run: a report that is computed from the record and can be written again at any time.

The template says where things stand; this file says what they are. Every value a template prints is escaped,
unless it is `Markdown` already, so no name, note or sample can change the page.
"""

import shlex
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gpt2lab.record.sweep import is_sweep
from gpt2lab.report.comparison_page.page import write_sweep_report
from gpt2lab.report.figures import draw_figures
from gpt2lab.report.inputs import Inputs, read_inputs
from gpt2lab.report.markdown import Markdown, escape, fence
from gpt2lab.report.method import matrix_table, status_line
from gpt2lab.report.origin import day, shell_word
from gpt2lab.report.page import shared_context, write_page, write_summary
from gpt2lab.report.results import checkpoint_table, headline, measure_table, speed_line
from gpt2lab.report.summary import summarise_inputs

MAX_SAMPLES = 3
MAX_SAMPLE_CHARS = 1200


def write_report(directory: Path, title: str) -> None:
    """Write summary.json, figures/ and README.md for the run or sweep in `directory`; the same bytes every time.

    Raises ArchiveError naming a file that is missing, damaged or cannot be written.
    """
    if is_sweep(directory):
        write_sweep_report(directory, title)
        return
    inputs = read_inputs(directory)
    summary = summarise_inputs(inputs, title)
    write_summary(directory, summary)
    write_page(directory, "run.md.j2", _context(directory, inputs, summary), partial(draw_figures, inputs, summary))


def _context(directory: Path, inputs: Inputs, summary: dict[str, Any]) -> dict[str, Any]:
    updates = None if summary["steps"] is None else f"{summary['steps']:,} updates"
    # One seed is true of every run, and no spikes is what is expected: both stay in the analysis.
    telling = [finding["verdict"] for finding in summary["findings"] if finding["topic"] != "seeds"]
    telling = [verdict for verdict in telling if verdict != "No loss spikes"]
    return shared_context(directory, inputs, summary, telling, notes=inputs.notes, command=_command(inputs)) | {
        "status": status_line(summary["status"] or "unknown status", [day(summary["date"]), updates], summary),
        "reason": summary["reason"] and Markdown(f"Why it ended: {escape(summary['reason'])}"),
        "headline": headline(inputs, summary),
        "matrices": matrix_table(inputs),
        "measures": measure_table(inputs, summary),
        "speed": speed_line(summary),
        "checkpoints": checkpoint_table(inputs, summary),
        "findings": summary["findings"],
        "samples": [_sample(name, text) for name, text in list(inputs.samples.items())[:MAX_SAMPLES]],
    }


def _sample(name: str, text: str) -> Markdown:
    cut = ", its beginning" if len(text) > MAX_SAMPLE_CHARS else ""
    return Markdown(f"[{escape(name)}](samples/{quote(name)}){cut}:\n\n{fence(text[:MAX_SAMPLE_CHARS])}")


def _command(inputs: Inputs) -> str:
    typed = inputs.fact("provenance.command")
    if not inputs.overrides and typed:
        return shlex.join(map(str, typed))
    # A continued run is run again from its beginning.
    overrides = [shell_word(item) for item in inputs.overrides if not item.startswith("resume=")]
    words = ["python -m gpt2lab.run", *overrides]
    command = " ".join(words)
    return command if len(command) <= 100 else " \\\n  ".join(words)
