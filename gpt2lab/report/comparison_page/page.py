"""README.md, summary.json and figures/ of an archived sweep, computed from its plan and the records of its runs."""

import shlex
from pathlib import Path
from typing import Any

from gpt2lab.record.disk import disk_errors, json_bytes, write_atomic
from gpt2lab.record.identity import WRITTEN_BY
from gpt2lab.report import markdown
from gpt2lab.report.analysis import Finding
from gpt2lab.report.canvas import Picture
from gpt2lab.report.comparison.sweep_results import SweepResults, noise_words, read_sweep_results
from gpt2lab.report.comparison_page import tables
from gpt2lab.report.comparison_page.cost_table import cost_table
from gpt2lab.report.comparison_page.pictures import draw_pictures
from gpt2lab.report.comparison_page.sentences import EVIDENCE, find_in_sweep
from gpt2lab.report.comparison_page.shared import shared_inputs, summarise_sweep
from gpt2lab.report.comparison_page.words import jobs_line, lowered, sentence
from gpt2lab.report.inputs import read_inputs
from gpt2lab.report.method import read_method, status_line
from gpt2lab.report.notes import merge_notes, take_section
from gpt2lab.report.origin import day, how_to, provenance_rows
from gpt2lab.report.templates import template
from gpt2lab.report.writer import written_by

RECORD = (
    "sweep.json",
    "config.yaml",
    "overrides.yaml",
    "summary.json",
    "provenance.json",
    "status.json",
    "noise.json",
    "notes.md",
    "source.tar.gz",
)


def write_sweep_report(directory: Path, title: str) -> None:
    """Write summary.json, figures/ and README.md for the sweep recorded in `directory`; the same bytes every time.

    Raises ArchiveError naming a file that is missing, damaged or cannot be written.
    """
    results = read_sweep_results(directory)
    # An archived sweep has a record of its own: a name and a hypothesis that a person may have changed, and notes.
    own = read_inputs(directory) if (directory / "config.yaml").is_file() else None
    hypothesis = results.sweep.hypothesis if own is None else own.fact("config.hypothesis")
    findings = find_in_sweep(results)
    summary = summarise_sweep(results, title, hypothesis)
    summary["findings"] = [{"topic": f.topic, "verdict": f.verdict, "text": f.text} for f in findings]
    summary[WRITTEN_BY] = written_by()
    write_atomic(directory / "summary.json", json_bytes(summary))
    with disk_errors("write", directory / "figures"):
        pictures = draw_pictures(results, summary, directory / "figures")
    notes = "" if own is None else own.notes
    page = template("sweep.md.j2").render(_context(directory, results, summary, findings, pictures, notes))
    write_atomic(directory / "README.md", page.encode())


def _context(
    directory: Path,
    results: SweepResults,
    summary: dict[str, Any],
    findings: list[Finding],
    pictures: list[Picture],
    notes: str,
) -> dict[str, Any]:
    question, rest = take_section(notes, "Question")
    conclusion, _ = take_section(rest, "Conclusion")
    rest = "\n\n".join(take_section(rest, "Notes"))  # the page has its own heading of that name
    shared = shared_inputs(results.sweep, [member.run.inputs for member in results.members if member.run])
    seeds = sorted({member.seed for member in results.members if member.seed is not None})
    evidence = [finding for finding in findings if finding.topic in EVIDENCE]
    matched = tables.matched_table(results)
    return {
        "title": summary["name"],
        "status": status_line(summary["status"], [jobs_line(results.counts), day(summary["date"])], summary),
        "in_short": "; ".join(lowered(each.verdict) for each in evidence if not each.verdict.startswith("One arm")),
        "question": merge_notes(question),
        "hypothesis": summary["hypothesis"],
        "evidence": evidence,
        "concluded": bool(merge_notes(conclusion)),
        # Tokens and updates of one run are not those of a sweep.
        "method": read_method(shared, summary | {"tokens": None}) if shared.config else [],
        "varies": tables.settings_rows(results.cells, seeds),
        "comparability": _comparability(results),
        "no_comparison": sentence(results.no_comparison or ""),
        "main": tables.main_table(results),
        "unfinished": tables.unfinished_table(results),
        "pictures": pictures,
        "grokking": tables.grokking_table(results),
        "matched": matched,
        "no_match": None if matched or results.grokking else sentence(results.matched.reason or ""),
        "cost": cost_table(results),
        "findings": [finding for finding in findings if finding.topic not in EVIDENCE],
        "notes": merge_notes(rest),
        "command": markdown.fence(shlex.join(results.sweep.command), "sh"),
        "how_to": how_to(shared),
        "provenance": provenance_rows(shared),
        "files": [name for name in (*RECORD, "runs/") if (directory / name).exists()],
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
