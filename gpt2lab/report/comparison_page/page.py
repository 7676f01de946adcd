"""README.md, summary.json and figures/ of an archived sweep, computed from its plan and the records of its runs."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from gpt2lab.record.sweep import Sweep, count_states
from gpt2lab.record.values import common
from gpt2lab.report.comparison.compare import ArmResult
from gpt2lab.report.comparison.grokking import GrokkingCell
from gpt2lab.report.comparison.statistics import Censored
from gpt2lab.report.comparison.sweep_results import SweepResults, noise_words, read_sweep_results
from gpt2lab.report.comparison_page import tables
from gpt2lab.report.comparison_page.pictures import draw_pictures
from gpt2lab.report.comparison_page.sentences import EVIDENCE, find_in_sweep
from gpt2lab.report.comparison_page.words import jobs_line, sentence
from gpt2lab.report.inputs import Inputs, read_inputs
from gpt2lab.report.method import status_line
from gpt2lab.report.notes import merge_notes, take_section
from gpt2lab.report.origin import day
from gpt2lab.report.page import shared_context, write_page, write_summary
from gpt2lab.report.summary import summarise_inputs


def write_sweep_report(directory: Path, title: str) -> None:
    """Write summary.json, figures/ and README.md for the sweep recorded in `directory`; the same bytes every time.

    Raises ArchiveError naming a file that is missing, damaged or cannot be written.
    """
    results = read_sweep_results(directory)
    # An archived sweep has a record of its own: a name and a hypothesis that a person may have changed, and notes.
    own = read_inputs(directory) if (directory / "config.yaml").is_file() else None
    hypothesis = results.sweep.hypothesis if own is None else own.fact("config.hypothesis")
    summary = _summarise(results, title, hypothesis)
    write_summary(directory, summary)
    context = _context(directory, results, summary, "" if own is None else own.notes)
    write_page(directory, "sweep.md.j2", context, partial(draw_pictures, results, summary))


def _context(directory: Path, results: SweepResults, summary: dict[str, Any], notes: str) -> dict[str, Any]:
    conclusion, _ = take_section(take_section(notes, "Question")[1], "Conclusion")
    shared = _shared_inputs(results.sweep, [member.run.inputs for member in results.members if member.run])
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


def _shared_inputs(sweep: Sweep, inputs: Sequence[Inputs]) -> Inputs:
    """Return the record that all `inputs` share, as if it were that of one run without rows."""
    provenance = common([run.provenance for run in inputs])
    moments = [_moment(inputs, key) for key in ("started", "ended")]
    return Inputs(
        config=common([run.config for run in inputs]),
        overrides=list(sweep.overrides),
        provenance=provenance | {"run_id": sweep.sweep_id, "command": list(sweep.command)},
        status={"started": min(moments[0], default=None), "ended": max(moments[1], default=None)},
        rows=[],
        notes="",
        samples={},
    )


def _moment(inputs: Sequence[Inputs], key: str) -> list[str]:
    return [str(run.status[key]) for run in inputs if run.status.get(key)]


def _summarise(results: SweepResults, title: str, hypothesis: str | None) -> dict[str, Any]:
    """Return the summary of a sweep: the keys of a run's where all runs agree (else null), and what a sweep adds.

    A run counts here as soon as it has a record, whether it finished or not.
    """
    inputs = [member.run.inputs for member in results.members if member.run is not None]
    runs = [summarise_inputs(run, title) for run in inputs]
    own = {
        "name": title,
        "kind": "sweep",
        "status": "finished" if results.reason is None else "partial",
        "reason": results.reason,
        "date": min(_moment(inputs, "started"), default=results.sweep.created),
        "hypothesis": hypothesis,
        "tags": list(results.sweep.tags),
        "jobs": dict(results.counts),
        "varies": list(results.sweep.varies),
        "metric": results.metric,
        "tokens": _sum([run["tokens"] for run in runs]),
        "training_s": _sum([run["training_s"] for run in runs]),
        "arms": [_arm(results, index) for index in range(len(results.cells))],
        "findings": [asdict(finding) for finding in find_in_sweep(results)],
    }
    keys = summarise_inputs(_shared_inputs(results.sweep, []), title)
    return own | {key: _equal([run[key] for run in runs]) for key in keys if key not in own}


def _equal(values: Sequence[Any]) -> Any:
    return values[0] if values and all(value == values[0] for value in values) else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _arm(results: SweepResults, index: int) -> dict[str, Any]:
    cell, row = results.cells[index], results.rows[index]
    arm: dict[str, Any] = {
        "label": cell.label,
        "values": dict(cell.values),
        "density": dict(cell.density),
        "baseline": index == results.baseline,
        "jobs": count_states(member.state.word for member in cell.members),
        **(asdict(row.estimate) if row else {"n": 0, "mean": None, "std": None, "interval": None}),
        "by_seed": {str(seed): value for seed, value in row.by_seed.items()} if row else {},
        "difference": _difference(row),
        "verdict": row.judgement.verdict if row and row.judgement else None,
        "rule": row.judgement.rule if row and row.judgement else None,
    }
    if results.grokking is not None:
        arm["grokking"] = _grokking(results.grokking.cells[index])
    return arm


def _difference(row: ArmResult | None) -> dict[str, Any] | None:
    if row is None or row.difference is None:
        return None
    return {
        "pairs": row.difference.n,
        "mean": row.difference.mean,
        "std": row.difference.std,
        "p": row.difference.p,
        "corrected_p": row.corrected_p,
        "corrected_interval": row.corrected_interval,
    }


def _grokking(cell: GrokkingCell) -> dict[str, Any]:
    def censored(value: Censored | None) -> dict[str, Any] | None:
        if value is None:
            return None
        bound = value.median_beyond
        beyond = bound if bound is not None and math.isfinite(bound) else None  # null beside a null median: never
        return {"median": value.median, "beyond": beyond, "reached": value.reached, "n": value.n}

    return {
        "settled": cell.settled,
        "success": cell.success,
        "steps_to_train_accuracy": censored(cell.train),
        "steps_to_val_accuracy": censored(cell.val),
        "delay": censored(cell.delay),
        "phases": dict(cell.phases),
    }
