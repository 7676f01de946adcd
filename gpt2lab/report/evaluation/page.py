"""An evaluation as tables for a terminal and as a page with figures."""

import shlex
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, json_bytes, write_atomic
from gpt2lab.record.markdown import one_line
from gpt2lab.report import numbers
from gpt2lab.report.canvas import GREY, ORANGE, Picture, drawing
from gpt2lab.report.evaluation.matrix import CHAIN_TITLES, FORMULAS
from gpt2lab.report.evaluation.record import MEASURES
from gpt2lab.report.markdown import Markdown, code, escape, fence, table
from gpt2lab.report.numbers import plural
from gpt2lab.report.origin import HASH_DIGITS
from gpt2lab.report.page import write_page

DOMAIN_COLUMNS = ("Model", "Data", "Loss (nats/token)", "Perplexity", "Bits per byte", "Accuracy", "Tokens")
MODEL_COLUMNS = ("Model", "Checkpoint sha256", "Started from", "Engine")
TASK_COLUMNS = ("Data", "Overrides", "Tokenizer", "Positions", "Counted", "Files, sha256")
_TITLES = {"loss": "Loss (nats per counted token)", "accuracy": "Accuracy"}
LONGEST_NAME = 28  # characters beside the cells
_FIGURE_TITLES = {"loss": "Loss, nats per counted token", "accuracy": "Accuracy, share of counted tokens"}


def check_output(directory: Path) -> None:
    """Raise ArchiveError when an evaluation cannot be written to `directory` without harm to what is there."""
    if directory.exists() and not directory.is_dir():
        raise ArchiveError(f"{directory}: is a file; expected a folder, new or of an earlier evaluation")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "evaluation.json").is_file():
        raise ArchiveError(
            f"{directory}: holds something else (no evaluation.json); name a new folder, or that of an evaluation"
        )


def write_evaluation(record: dict[str, Any], directory: Path) -> None:
    """Write evaluation.json, README.md and figures/. Raises ArchiveError when they cannot be written."""
    check_output(directory)
    with disk_errors("write", directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "evaluation.json", json_bytes(record))
    write_page(directory, "evaluation.md.j2", _context(record), partial(_draw, record))


def phases_of(record: dict[str, Any]) -> list[str]:
    """Return the names of the models that are rows of the matrices."""
    return [model["name"] for model in record["models"] if model["name"] != record["before"]]


def domain_rows(record: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the domain table, a row per model and task."""
    shown = {"loss": numbers.loss, "perplexity": numbers.rounded, "bits_per_byte": numbers.loss}
    shown |= {"accuracy": numbers.share, "tokens": numbers.count}
    return [
        [row["model"], row["task"], *(show(row[key]) for key, show in shown.items())] for row in record["measurements"]
    ]


def matrix_rows(record: dict[str, Any], measure: str) -> tuple[list[str], list[list[str]]]:
    """Return the column heads and rows of the matrix of a measure; the model before the first phase comes first."""
    columns = ["After phase" if record["chain"] else "Model", *(task["name"] for task in record["tasks"])]
    rows = [
        [name, *map(numbers.measure_formatter(measure), values)]
        for name, values in zip(phases_of(record), record["matrices"][measure], strict=True)
    ]
    before = [row[measure] for row in record["measurements"] if row["model"] == record["before"]]
    if before:
        rows.insert(0, [f"{record['before']} (before)", *map(numbers.measure_formatter(measure), before)])
    return columns, rows


def chain_rows(record: dict[str, Any], measure: str) -> tuple[list[str], list[list[str]]]:
    """Return column heads and rows, one per task and the averages, of what the chain kept; [] when it is none."""
    if record["chain"] is None:
        return [], []
    chain = record["chain"][measure]
    kept = [key for key in CHAIN_TITLES if any(value is not None for value in chain[key])]

    def cell(key: str, value: float | None) -> str:
        if value is not None and key == "retention":
            return numbers.rounded(value)
        if value is not None and value < 0:
            return f"−{numbers.loss(-value)}"
        return (numbers.measure_formatter(measure) if key in ("diagonal", "final") else numbers.loss)(value)

    rows = [[task["name"], *(cell(k, chain[k][j]) for k in kept)] for j, task in enumerate(record["tasks"])]
    rows.append(["average", *(cell(k, chain["averages"][k]) for k in kept)])
    return ["Task", *(CHAIN_TITLES[key] for key in kept)], rows


def _draw(record: dict[str, Any], folder: Path) -> list[Picture]:
    phases, tasks = phases_of(record), [task["name"] for task in record["tasks"]]
    if len(phases) < 2 or len(tasks) < 2:
        return []
    chain, matrices = record["chain"] is not None, {k: np.array(record["matrices"][k]) for k in MEASURES}
    return [
        draw_matrix(matrix, models=phases, tasks=tasks, measure=measure, is_chain=chain, folder=folder)
        for measure, matrix in matrices.items()
    ]


def _context(record: dict[str, Any]) -> dict[str, Any]:
    n_models, n_tasks = len(phases_of(record)), len(record["tasks"])
    part = "whole" if record["batches"] is None else f"first {record['batches'] * record['batch_size']:,} sequences of"
    engines = sorted({", ".join(row["engine"]) for row in record["models"]})
    status = [record["date"][:10], f"{part} {record['split']} split", *engines]
    return {
        "title": f"Evaluation of {plural(n_models, 'model')} on {plural(n_tasks, 'data source')}",
        "status": Markdown(" · ".join(escape(part) for part in status)),
        "findings": record["findings"],
        "notes": record["notes"],
        "matrices": [_matrix(record, measure) for measure in MEASURES] if n_models > 1 else [],
        "domains": table(DOMAIN_COLUMNS, domain_rows(record), 2),
        "models": table(MODEL_COLUMNS, [_model_row(model, record["models"]) for model in record["models"]], 4),
        "tasks": table(TASK_COLUMNS, map(_task_row, record["tasks"]), 3, last_is_text=True),
        "command": fence(shlex.join(record["command"]), "sh"),
    }


def _matrix(record: dict[str, Any], measure: str) -> dict[str, Any]:
    columns, rows = matrix_rows(record, measure)
    chain_columns, chain = chain_rows(record, measure)
    own = "In bold: each phase on its own task." if chain else "In bold: the best of each column."
    marked = [[row[0], *(Markdown(f"**{c}**") if b else c for c, b in zip(row[1:], bold, strict=True))]
              for row, bold in zip(rows, _bold(record, measure, len(rows)), strict=True)]  # fmt: skip
    formulas = {name: text for name, text in FORMULAS[measure].items() if name in chain_columns}
    return {
        "title": _TITLES[measure],
        "table": table(columns, marked, below=own),
        "file": f"{measure}.svg",
        "chain": table(chain_columns, chain) if chain else None,
        "formulas": [Markdown(f"*{name}*: {escape(text)}.") for name, text in formulas.items()],
    }


def _bold(record: dict[str, Any], measure: str, n_rows: int) -> np.ndarray:
    """Return which cells of the table of `n_rows` rows stand out, (n_rows, K) bool."""
    values = np.array(record["matrices"][measure])
    if record["chain"]:
        found = np.eye(len(values), dtype=bool)
    else:
        found = values == (values.min(axis=0) if measure == "loss" else values.max(axis=0))
    return np.vstack([np.zeros((n_rows - len(values), values.shape[1]), dtype=bool), found])


def _model_row(model: dict[str, Any], models: list[dict[str, Any]]) -> list[Any]:
    origin = [m["name"] for m in models if m["sha256"] is not None and m["sha256"] == model["starts_from"]]
    other = _digits(model["starts_from"]) if model["starts_from"] else numbers.MISSING
    return [model["name"], _digits(model["sha256"]), origin[0] if origin else other, ", ".join(model["engine"])]


def _task_row(task: dict[str, Any]) -> list[Any]:
    counted = task["counted_positions"]
    files = [Markdown(f"{escape(name)} {_digits(value)}") for name, value in list(task["data_files"].items())[:3]]
    more = len(task["data_files"]) - len(files)
    return [
        task["name"],
        code(" ".join(task["overrides"])),
        f"{task['tokenizer']} ({task['vocab_size']:,})",
        numbers.count(task["seq_len"]),
        "all" if counted is None else f"{counted[0]} to {counted[-1]}",
        Markdown(", ".join(files) + (f" and {more} more" if more else "")),
    ]


def _digits(sha256: str | None) -> Markdown:
    return code(f"{sha256[:HASH_DIGITS]}…") if sha256 else Markdown(numbers.MISSING)


def draw_matrix(
    matrix: np.ndarray, *, models: Sequence[str], tasks: Sequence[str], measure: str, is_chain: bool, folder: Path
) -> Picture:
    """Write MEASURE.svg of a matrix (P, K), float64; darker is better, a frame marks each phase's own task."""
    values, show = np.asarray(matrix, dtype=np.float64), numbers.measure_formatter(measure)
    (P, K), title = values.shape, _FIGURE_TITLES[measure]
    with drawing(folder / f"{measure}.svg", title, 1.5 + 0.5 * P) as axes:
        # viridis orders by lightness alone too; reversed for losses, where less is better.
        image = axes.imshow(values, cmap="viridis" if measure == "loss" else "viridis_r", aspect="auto")
        axes.grid(False)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(K), [_in_lines(name, width=max(8, 56 // K)) for name in tasks])
        axes.set_yticks(range(P), [_in_lines(name, width=LONGEST_NAME, lines=1) for name in models])
        axes.set_xlabel("Evaluated on")
        axes.set_ylabel("After phase" if is_chain else "Model")
        axes.tick_params(length=0)
        size = max(5.0, min(10.0, 90 / K))
        for i, j in np.ndindex(P, K):
            red, green, blue, _ = image.cmap(image.norm(values[i, j]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            color = "white" if dark else "black"
            axes.text(j, i, show(float(values[i, j])), ha="center", va="center", fontsize=size, color=color)
        for i in range(P if is_chain else 0):
            axes.add_patch(Rectangle((i - 0.48, i - 0.46), 0.96, 0.92, fill=False, edgecolor=ORANGE, linewidth=2))
        bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
        bar.outline.set_edgecolor(GREY)
    rows = [
        f"{model}: {', '.join(f'{task} {show(float(values[i, j]))}' for j, task in enumerate(tasks))}"
        for i, model in enumerate(models)
    ]
    own = "; the frame marks the task of each phase" if is_chain else ""
    return Picture(f"{measure}.svg", f"{title}. {'; '.join(rows)}.", f"{title}; darker is better{own}.")


def _in_lines(name: str, *, width: int, lines: int = 3) -> str:
    text = one_line(name).replace("$", r"\$")  # a bare dollar sign would begin a formula
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder="…"))
