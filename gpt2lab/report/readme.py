"""README.md of one run: a report that is computed from the record and can be written again at any time.

The template says where things stand; this file says what they are. Every value a template prints is escaped,
unless it is `Markdown` already, so no name, note or sample can change the page.
"""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from gpt2lab.record.disk import disk_errors, json_bytes, write_atomic
from gpt2lab.report import markdown, numbers
from gpt2lab.report.figures import draw_figures
from gpt2lab.report.inputs import Inputs, read_inputs
from gpt2lab.report.markdown import Markdown, code, escape
from gpt2lab.report.method import hardware, matrix_rows, read_method
from gpt2lab.report.results import SPLIT_NAMES, checkpoint_table, headline, measure_rows, speed_line
from gpt2lab.report.summary import LOSS_COLUMNS, SPLITS, summarise_inputs

MAX_SAMPLES = 3
MAX_SAMPLE_CHARS = 1200
HASH_DIGITS = 16  # shown of a sha256; provenance.json holds all 64
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
    """Write summary.json, figures/ and README.md for the run recorded in `directory`; the same bytes every time.

    Raises ArchiveError naming a file that is missing, damaged or cannot be written.
    """
    inputs = read_inputs(directory)
    summary = summarise_inputs(inputs, title)
    write_atomic(directory / "summary.json", json_bytes(summary))
    with disk_errors("write", directory / "figures"):
        pictures = draw_figures(inputs, summary, directory / "figures")
    page = open_template("run.md.j2").render(_context(directory, inputs, summary, pictures))
    write_atomic(directory / "README.md", page.encode())


def open_template(name: str) -> jinja2.Template:
    """Return a template of report/templates/, in which every value is escaped unless it is `Markdown`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        finalize=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["cells"] = markdown.table_row
    environment.filters["numeric"] = lambda columns: Markdown("|" + " ---: |" * len(columns))
    return environment.get_template(name)


def _context(directory: Path, inputs: Inputs, summary: dict[str, Any], pictures: list[Any]) -> dict[str, Any]:
    question, notes = markdown.take_section(inputs.notes, "Question")
    # The page has its own heading of that name.
    notes = "\n\n".join(markdown.take_section(notes, "Notes"))
    columns, rows, caption = checkpoint_table(inputs, summary)
    splits = [split for split in SPLITS if summary[LOSS_COLUMNS[split]] is not None]
    return {
        "title": summary["name"],
        "status": Markdown(" · ".join(_status_parts(summary))),
        "reason": summary["reason"],
        "headline": headline(inputs, summary),
        "in_short": "; ".join(_in_short(summary)),
        "question": markdown.notes(question),
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
        "notes": markdown.notes(notes),
        "samples": _samples(inputs),
        "command": markdown.fence(_command(inputs), "sh"),
        "how_to": _how_to(inputs),
        "provenance": _provenance(inputs, summary),
        "files": [name for name in RECORD if (directory / name).exists()],
    }


def _day(moment: Any) -> str | None:
    try:
        return f"{datetime.fromisoformat(str(moment)):%Y-%m-%d}"
    except ValueError:
        return None


def _status_parts(summary: dict[str, Any]) -> list[str]:
    parts = [_day(summary["date"])]
    if summary["steps"] is not None:
        parts.append(f"{summary['steps']:,} updates")
    if summary["tokens"]:
        parts.append(f"{numbers.compact(summary['tokens'])} tokens")
    if summary["training_s"]:
        parts.append(f"{numbers.duration(summary['training_s'])} of training")
    parts += [hardware(summary), *(f"#{tag}" for tag in summary["tags"])]
    return [f"**{escape(summary['status'] or 'unknown status')}**", *(escape(part) for part in parts if part)]


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
    overrides = [_quote(item) for item in inputs.overrides if not item.startswith("resume=")]
    command = " ".join(["python -m gpt2lab.run", *overrides])
    return command if len(command) <= 100 else " \\\n  ".join(["python -m gpt2lab.run", *overrides])


def _quote(word: str) -> str:
    # Hydra's own quotes are single ones; double ones around them are easier to read than shlex's.
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _how_to(inputs: Inputs) -> Markdown:
    commit, dirty = inputs.fact("provenance.git.commit"), inputs.fact("provenance.git.dirty")
    unpack = "`mkdir source && tar -xzf source.tar.gz -C source && cd source`"
    if commit and not dirty:
        return Markdown(f"In a checkout of commit {code(commit[:12])}, or in the source that ran: {unpack}.")
    return Markdown(f"In the source that ran: {unpack}.")


def _provenance(inputs: Inputs, summary: dict[str, Any]) -> list[tuple[str, Any]]:
    fact = inputs.fact
    command, versions = fact("provenance.command"), fact("provenance.versions") or {}
    os_and_python = [fact("provenance.platform.os"), fact("provenance.platform.python")]
    hashes = [("Configuration", fact("provenance.config_hash")), ("Source", fact("provenance.source_hash"))]
    hashes.append(("Initial weights", fact("provenance.model.init_from_sha256")))
    hashes += [(f"Data, {name}", value) for name, value in (fact("provenance.data.files") or {}).items()]
    tracker = fact("status.tracker")
    rows: list[tuple[str, Any]] = [
        ("Command as given", code(shlex.join(map(str, command))) if command else None),
        ("Commit", _commit(inputs)),
        ("Run", code(fact("provenance.run_id")) if fact("provenance.run_id") else None),
        ("Started, ended (UTC)", _period(inputs)),
        *_continuations(inputs),
        ("System", ", Python ".join(str(part) for part in os_and_python if part)),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if version)),
        ("Tracker", str(tracker) if tracker else None),
    ]
    rows += [(f"{name} sha256", code(f"{str(value)[:HASH_DIGITS]}…")) for name, value in hashes if value]
    return [(key, value) for key, value in rows if value]


def _continuations(inputs: Inputs) -> list[tuple[str, str]]:
    """Return a row for each time the run was stopped and went on, with what was not as before."""
    rows = []
    for entry in inputs.fact("status.resumes") or []:
        changed = "; ".join(str(item) for item in entry.get("changed") or []) or "with the same source and engine"
        rows.append((f"Continued from step {entry.get('step'):,}", f"{str(entry.get('at'))[:19]}: {changed}"))
    return rows


def _commit(inputs: Inputs) -> Markdown | str:
    git = inputs.fact("provenance.git") or {}
    if not git.get("commit"):
        return "none: the source was not in a git repository; source.tar.gz holds it"
    state = "clean"
    if git.get("dirty"):
        untracked = len(git.get("untracked") or [])
        files = f" and {untracked} untracked {'file' if untracked == 1 else 'files'}" if untracked else ""
        state = f"with uncommitted changes{files}; provenance.json holds the patch, source.tar.gz the files"
    return Markdown(f"{code(git['commit'])}, {state}")


def _period(inputs: Inputs) -> str | None:
    moments = [inputs.fact("status.started"), inputs.fact("status.ended")]
    return " to ".join(str(moment)[:19].replace("T", " ") for moment in moments if moment)
