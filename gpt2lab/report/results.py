"""The Results section of a report: the numbers of the summary as lines and tables, each with its unit."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2lab.record import columns
from gpt2lab.record.columns import Column, evaluated
from gpt2lab.report import numbers
from gpt2lab.report.inputs import Inputs
from gpt2lab.report.markdown import Markdown
from gpt2lab.report.summary import bits_per_byte, counts_every_position, perplexity

MAX_CHECKPOINTS = 12  # rows of the table of evaluations
SPLIT_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}


def headline(inputs: Inputs, summary: dict[str, Any]) -> list[tuple[str, str]]:
    answers = not counts_every_position(inputs) or bool(inputs.fact("provenance.data.row_len"))
    at = f"step {summary['loss_step']:,}" if summary["loss_step"] is not None else ""
    stored, active = summary["n_params"], summary["n_params_active"]
    cells = [
        (f"Validation loss, {at} (nats/token)", summary["val_loss"], numbers.loss),
        ("Validation accuracy", summary["val_accuracy"] if answers else None, numbers.share),
        ("Perplexity", None if answers else summary["perplexity"], numbers.rounded),
        ("Bits per byte", summary["bits_per_byte"], numbers.loss),
        ("Gap to training (nats)", summary["gap"], numbers.loss),
        ("Parameters in use", active if active is not None else stored, numbers.count),
        ("Tokens/s", summary["tokens_per_s"], numbers.rounded),
    ]
    return [(name, show(value)) for name, value, show in cells if value is not None]


def measure_rows(inputs: Inputs, summary: dict[str, Any], splits: list[str]) -> list[list[str]]:
    def before(split: str) -> str:
        return numbers.loss(inputs.curve(evaluated(split)["loss"].name).at(0))

    def last(entry: Column) -> str:
        return numbers.formatter(entry.name)(summary[entry.name])

    def best(entry: Column) -> str:
        step = summary[f"best_{entry.name}_step"]
        value = numbers.formatter(entry.name)(summary[f"best_{entry.name}"])
        return value if step is None else f"{value} (step {step:,})"

    def of_each(measure: str, show: Callable[[Column], str]) -> list[str]:
        found = [evaluated(split).get(measure) for split in splits]
        return [numbers.MISSING if entry is None else show(entry) for entry in found]

    def final(split: str) -> float | None:
        loss: float | None = summary[evaluated(split)["loss"].name]
        return loss

    rows = [("Loss before training (nats/token)", [before(split) for split in splits])]
    if not summary["loss_step"]:
        return [[name, *cells] for name, cells in rows]
    every = counts_every_position(inputs)
    rows += [
        ("Last loss (nats/token)", of_each("loss", last)),
        ("Best loss (nats/token)", of_each("loss", best)),
        ("Perplexity", [numbers.rounded(perplexity(final(split)) if every else None) for split in splits]),
        ("Bits per byte", [numbers.loss(bits_per_byte(inputs, split, final(split))) for split in splits]),
    ]
    for measure in [measure for measure in columns.measures() if measure != "loss"]:
        rows += [(f"Last {measure}", of_each(measure, last)), (f"Best {measure}", of_each(measure, best))]
    return [[name, *cells] for name, cells in rows if any(cell != numbers.MISSING for cell in cells)]


def speed_line(summary: dict[str, Any]) -> str | None:
    parts = []
    if summary["tokens_per_s"] is not None:
        parts.append(f"median throughput {numbers.rounded(summary['tokens_per_s'])} tokens/s")
    if summary["step_ms"] is not None:
        parts.append(f"{numbers.rounded(summary['step_ms'])} ms per update")
    if parts:
        parts[-1] += " (the first tenth of the rows left out)"
    if summary["peak_mem_mib"] is not None:
        parts.append(f"peak memory {numbers.count(summary['peak_mem_mib'])} MiB")
    return f"Speed: {', '.join(parts)}." if parts else None


def checkpoint_table(inputs: Inputs, summary: dict[str, Any]) -> tuple[list[str], list[list[Any]], str]:
    """Return (column heads, rows, caption) of the evaluations: all, or thinned evenly around those that matter."""
    entries = [entry for measure in columns.measures() for entry in columns.COLUMNS if entry.measure == measure]
    measured = [(entry, curve) for entry in entries if len(curve := inputs.curve(entry.name))]
    steps = sorted({int(step) for _, curve in measured for step in curve.steps})
    if len(steps) < 2:
        return [], [], ""
    telling = {
        steps[0],
        steps[-1],
        summary["best_val_loss_step"],
        summary["steps_to_train_accuracy"],
        summary["steps_to_val_accuracy"],
    }
    kept = _thin_evenly(steps, {step for step in telling if step in steps})
    tokens = {row["step"]: row["tokens"] for row in inputs.rows}
    rows: list[list[Any]] = []
    for step in kept:
        row: list[Any] = [f"{step:,}", numbers.count(tokens[step])]
        for entry, curve in measured:
            cell = numbers.formatter(entry.name)(curve.at(step))
            bold = entry.name == "val_loss" and step == summary["best_val_loss_step"]
            row.append(Markdown(f"**{cell}**") if bold else cell)
        rows.append(row)
    shown = "all" if len(kept) == len(steps) else f"{len(kept)} of"
    caption = (
        f"Evaluations during training ({shown} {len(steps):,}): losses in nats per counted token, the best validation "
        "loss in bold."
    )
    return ["Step", "Tokens", *(entry.label for entry, _ in measured)], rows, caption


def _thin_evenly(steps: list[int], telling: set[int]) -> list[int]:
    if len(steps) <= MAX_CHECKPOINTS:
        return steps
    spread = np.linspace(0, len(steps) - 1, MAX_CHECKPOINTS - max(0, len(telling) - 2)).round().astype(int)
    return sorted(telling | {steps[index] for index in spread})
