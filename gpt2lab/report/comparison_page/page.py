"""README.md, summary.json and figures/ of an archived sweep, computed from its plan and the records of its runs."""

import shlex
from functools import partial
from pathlib import Path
from typing import Any

from gpt2lab.report.comparison.sweep_results import SweepResults, noise_words, read_sweep_results
from gpt2lab.report.comparison_page import tables
from gpt2lab.report.comparison_page.pictures import draw_pictures
from gpt2lab.report.comparison_page.sentences import EVIDENCE
from gpt2lab.report.comparison_page.shared import shared_inputs, summarise_sweep
from gpt2lab.report.comparison_page.words import jobs_line, sentence
from gpt2lab.report.inputs import read_inputs
from gpt2lab.report.method import status_line
from gpt2lab.report.notes import merge_notes, take_section
from gpt2lab.report.origin import day
from gpt2lab.report.page import shared_context, write_page, write_summary


def write_sweep_report(directory: Path, title: str) -> None:
    """Write summary.json, figures/ and README.md for the sweep recorded in `directory`; the same bytes every time.

    Raises ArchiveError naming a file that is missing, damaged or cannot be written.
    """
    results = read_sweep_results(directory)
    # An archived sweep has a record of its own: a name and a hypothesis that a person may have changed, and notes.
    own = read_inputs(directory) if (directory / "config.yaml").is_file() else None
    hypothesis = results.sweep.hypothesis if own is None else own.fact("config.hypothesis")
    summary = summarise_sweep(results, title, hypothesis)
    write_summary(directory, summary)
    context = _context(directory, results, summary, "" if own is None else own.notes)
    write_page(directory, "sweep.md.j2", context, partial(draw_pictures, results, summary))


def _context(directory: Path, results: SweepResults, summary: dict[str, Any], notes: str) -> dict[str, Any]:
    conclusion, _ = take_section(take_section(notes, "Question")[1], "Conclusion")
    shared = shared_inputs(results.sweep, [member.run.inputs for member in results.members if member.run])
    seeds = sorted({member.seed for member in results.members if member.seed is not None})
    evidence = [finding for finding in summary["findings"] if finding["topic"] in EVIDENCE]
    telling = [verdict for finding in evidence if not (verdict := finding["verdict"]).startswith("One arm")]
    matched = tables.matched_table(results)
    # Tokens and updates of one run are not those of a sweep.
    of_a_run, command = summary | {"tokens": None}, shlex.join(results.sweep.command)
    return shared_context(directory, shared, of_a_run, telling, notes=notes, command=command) | {
        "status": status_line(summary["status"], [jobs_line(results.counts), day(summary["date"])], summary),
        "evidence": evidence,
        "concluded": bool(merge_notes(conclusion)),
        "varies": tables.settings_table(results.cells, seeds),
        "comparability": _comparability(results),
        "no_comparison": sentence(results.no_comparison or ""),
        "main": tables.main_table(results),
        "unfinished": tables.unfinished_table(results),
        "grokking": tables.grokking_table(results),
        "matched": matched,
        "no_match": None if matched or results.grokking else sentence(results.matched.reason or ""),
        "cost": tables.cost_table(results),
        "findings": [finding for finding in summary["findings"] if finding["topic"] not in EVIDENCE],
    }


def _comparability(results: SweepResults) -> list[str]:
    comparison = results.comparison
    notes = [*results.notes, *(comparison.notes if comparison else ())]
    if comparison is not None:
        notes.append(f"the noise floor is of {noise_words(comparison)}")
        unfinished = {member.name for member in results.unfinished}  # they have a table of their own
        notes += [f"left out: {name}: {why}" for name, why in comparison.left_out if name not in unfinished]
        labels = {member.name: cell.label for cell in results.cells for member in cell.members}
        notes += [
            f"not compared: {labels.get(names.partition(', ')[0], names)}: {', '.join(reasons)}"
            for names, reasons in comparison.apart
        ]
    return notes
