"""experiments/README.md: the table of all experiments, rewritten when one is added."""

import os
from pathlib import Path

from gpt2lab.archive.experiments import Listed, list_experiments
from gpt2lab.archive.store import lock
from gpt2lab.archive.sweeps import status_words
from gpt2lab.errors import ArchiveError
from gpt2lab.record.columns import column
from gpt2lab.record.disk import disk_errors, write_atomic
from gpt2lab.record.markdown import escape, one_line
from gpt2lab.record.values import is_number

_MAX_TEXT = 160
_GENERATED = "<!-- Generated: every `gpt2lab snapshot`"

_HEAD = """\
# Experiments

<!-- Generated: every `gpt2lab snapshot` writes this page anew from the experiments beside it. -->

Each folder is one archived run, or one sweep with its runs: the record, the source that ran, and a report generated
from them. Losses are mean nats per counted token of the validation split at the end of training.
"""

_COLUMNS = ("No.", "Name", "Status", "Data", "Parameters", "Tokens", "Val loss", "Val accuracy", "Date", "Hypothesis")
_ALIGN = ("---:", "---", "---", "---", "---:", "---:", "---:", "---:", "---", "---")


def write_index(root: Path) -> Path:
    """Write README.md of the archive below `root`, newest first; the same experiments give the same bytes.

    An experiment with a damaged file is listed as damaged. Raises ArchiveError when the page cannot be written.
    """
    path = root / "README.md"
    check_index(root)
    # Under the lock, so that the page of an earlier listing cannot replace a later one.
    with lock(root):
        rows = [_row(experiment) for experiment in reversed(list_experiments(root))]
        table = [_COLUMNS, _ALIGN, *rows] if rows else []
        lines = ["| " + " | ".join(cells) + " |" for cells in table] or ["There are none yet."]
        write_atomic(path, (_HEAD + "\n" + "\n".join(lines) + "\n").encode())
    return path


def check_index(root: Path) -> None:
    """Raise ArchiveError when README.md below `root` is somebody's own page, which must not be written over."""
    path = root / "README.md"
    if path.exists() and _GENERATED not in path.read_text(encoding="utf-8", errors="replace"):
        raise ArchiveError(f"{path} is not a page that gpt2lab wrote: name another folder for the archive")


def check_root(root: Path) -> None:
    """Raise ArchiveError when `root` cannot take an experiment: known before a run trains, not after."""
    with disk_errors("use as the archive", root):
        root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK | os.X_OK):
        raise ArchiveError(f"{root}: cannot use as the archive: permission denied")
    check_index(root)


def _row(experiment: Listed) -> tuple[str, ...]:
    summary = experiment.summary
    status = "damaged" if experiment.damage else status_words(summary)
    return (
        f"[{experiment.number:05d}]({experiment.path.name}/README.md)",
        _text(summary.get("name") or experiment.slug),
        _text(status),
        _text(summary.get("data")),
        _count(summary.get("n_params_active") or summary.get("n_params")),
        _count(summary.get("tokens")),
        *(_number(summary.get(name), name) for name in ("val_loss", "val_accuracy")),
        _text(str(summary.get("date") or "")[:10]),
        _text(summary.get("hypothesis")),
    )


def _text(value: object) -> str:
    if value is None:
        return ""
    line = one_line(str(value))
    return escape(line if len(line) <= _MAX_TEXT else line[:_MAX_TEXT].rstrip() + "…")


def _number(value: object, metric: str) -> str:
    return column(metric).text(value, brief=True) if is_number(value) else ""


def _count(value: object) -> str:
    """Write a count with three significant digits: 815, 81.9 k, 1.02 M."""
    if not is_number(value):
        return ""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        # What rounds up to the next unit is written in it: 999,950 is 1.00 M.
        if value >= size * 0.9995:
            scaled = value / size
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f}{unit}"
    return str(value)
