"""Where a report's numbers come from: source, data, libraries and machine, and how to run the same again."""

import shlex
from datetime import datetime
from typing import Any

from gpt2lab.report.inputs import Inputs
from gpt2lab.report.markdown import Markdown, code, facts_table

HASH_DIGITS = 16  # shown of a sha256; provenance.json holds all 64


def day(moment: Any) -> str | None:
    """Return the date of a recorded moment, None where it is none."""
    try:
        return f"{datetime.fromisoformat(str(moment)):%Y-%m-%d}"
    except ValueError:
        return None


def shell_word(word: str) -> str:
    """Return one word of a command line as a shell takes it."""
    # Hydra's own quotes are single ones; double ones around them are easier to read than shlex's.
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def how_to(inputs: Inputs) -> Markdown:
    """Return where to find the source that ran."""
    commit, dirty = inputs.fact("provenance.git.commit"), inputs.fact("provenance.git.dirty")
    unpack = "`mkdir source && tar -xzf source.tar.gz -C source && cd source`"
    if commit and not dirty:
        return Markdown(f"In a checkout of commit {code(commit[:12])}, or in the source that ran: {unpack}.")
    return Markdown(f"In the source that ran: {unpack}.")


def provenance_table(inputs: Inputs) -> Markdown:
    """Return a row for each fact of the record; what was not recorded leaves its row out."""
    fact = inputs.fact
    command, versions = fact("provenance.command"), fact("provenance.versions") or {}
    os_and_python = [fact("provenance.platform.os"), fact("provenance.platform.python")]
    hashes = [
        ("Configuration", fact("provenance.config_hash")),
        ("Code", fact("provenance.code_hash")),
        ("Source", fact("provenance.source_hash")),
        ("Initial weights", fact("provenance.model.init_from_sha256")),
    ]
    hashes += [(f"Data, {name}", value) for name, value in (fact("provenance.data.files") or {}).items()]
    tracker = fact("status.tracker")
    rows: list[tuple[str, Any]] = [
        ("Command", code(shlex.join(map(str, command))) if command else None),
        ("Commit", _commit(inputs)),
        ("Run", code(fact("provenance.run_id")) if fact("provenance.run_id") else None),
        ("Started, ended (UTC)", _period(inputs)),
        *_continuations(inputs),
        ("System", ", Python ".join(str(part) for part in os_and_python if part)),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if version)),
        ("Tracker", str(tracker) if tracker else None),
    ]
    rows += [(f"{name} sha256", code(f"{str(value)[:HASH_DIGITS]}…")) for name, value in hashes if value]
    return facts_table(rows)


def _continuations(inputs: Inputs) -> list[tuple[str, str]]:
    """Return a row for each time the run was stopped and went on, with what was not as before."""
    rows = []
    for entry in inputs.fact("status.resumes") or []:
        changed = "; ".join(str(item) for item in entry.get("changed") or []) or "with the same code and engine"
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
