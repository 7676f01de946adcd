"""The Results section of a report: the numbers of the summary as lines and tables, each with its unit."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2lab.record import columns
from gpt2lab.record.columns import SPLITS, Column, column, evaluated
from gpt2lab.report import numbers
from gpt2lab.report.inputs import Inputs
from gpt2lab.report.markdown import Markdown, table
from gpt2lab.report.summary import bits_per_byte, counts_every_position, perplexity

MAX_CHECKPOINTS = 12  # rows of the table of evaluations
_NATS = "nats/token"  # the unit of a loss, short enough for the head of a narrow column
SPLIT_NAMES = {"train": "Training", "val": "Validation", "test": "Test"}


def headline(inputs: Inputs, summary: dict[str, Any]) -> Markdown | None:
    answers = not counts_every_position(inputs) or bool(inputs.fact("provenance.data.row_len"))
    at = f"step {summary['loss_step']:,}" if summary["loss_step"] is not None else ""
    stored, active = summary["n_params"], summary["n_params_active"]
    loss, accuracy, speed = (column(name) for name in ("val_loss", "val_accuracy", "tokens_per_s"))
    cells = [
        (f"{loss.label}, {at} ({_NATS})", summary[loss.name], numbers.formatter(loss.name)),
        (accuracy.label, summary[accuracy.name] if answers else None, numbers.formatter(accuracy.name)),
        ("Perplexity", None if answers else summary["perplexity"], numbers.rounded),
        ("Bits per byte", summary["bits_per_byte"], numbers.loss),
        ("Gap to training (nats)", summary["gap"], numbers.loss),
        ("Parameters in use", active if active is not None else stored, numbers.count),
        (speed.unit.capitalize(), summary[speed.name], numbers.rounded),
    ]
    told = [(name, show(value)) for name, value, show in cells if value is not None]
    return table([name for name, _ in told], [[value for _, value in told]], 0) if told else None


def measure_table(inputs: Inputs, summary: dict[str, Any]) -> Markdown | None:
    """Return what each split that was evaluated measured before training, last and at best."""
    losses = {split: evaluated(split)["loss"].name for split in SPLITS}
    splits = [split for split in SPLITS if summary[losses[split]] is not None]

    def last(entry: Column) -> str:
        return numbers.formatter(entry.name)(summary[entry.name])

    def best(entry: Column) -> str:
        step = summary[f"best_{entry.name}_step"]
        value = numbers.formatter(entry.name)(summary[f"best_{entry.name}"])
        return value if step is None else f"{value} (step {step:,})"

    def of_each(measure: str, show: Callable[[Column], str]) -> list[str]:
        found = [evaluated(split).get(measure) for split in splits]
        return [numbers.MISSING if entry is None else show(entry) for entry in found]

    final = {split: summary[losses[split]] for split in splits}
    rows = [(f"Loss before training ({_NATS})", [numbers.loss(inputs.curve(losses[split]).at(0)) for split in splits])]
    if summary["loss_step"]:
        every = counts_every_position(inputs)
        rows += [
            (f"Last loss ({_NATS})", of_each("loss", last)),
            (f"Best loss ({_NATS})", of_each("loss", best)),
            ("Perplexity", [numbers.rounded(perplexity(loss) if every else None) for loss in final.values()]),
            ("Bits per byte", [numbers.loss(bits_per_byte(inputs, *split_loss)) for split_loss in final.items()]),
        ]
        for measure in [measure for measure in columns.measures() if measure != "loss"]:
            rows += [(f"Last {measure}", of_each(measure, last)), (f"Best {measure}", of_each(measure, best))]
        rows = [row for row in rows if any(cell != numbers.MISSING for cell in row[1])]
    names = [SPLIT_NAMES[split] for split in splits]
    return table(["", *names], [[name, *cells] for name, cells in rows]) if rows else None


def speed_line(summary: dict[str, Any]) -> str | None:
    speed, step, memory = (column(name) for name in ("tokens_per_s", "step_ms", "peak_mem_mib"))
    parts = []
    if summary[speed.name] is not None:
        parts.append(f"median {speed.label.lower()} {numbers.rounded(summary[speed.name])} {speed.unit}")
    if summary[step.name] is not None:
        parts.append(f"{numbers.rounded(summary[step.name])} {step.unit} per update")
    if parts:
        parts[-1] += " (the first tenth of the rows left out)"
    if summary[memory.name] is not None:
        parts.append(f"{memory.label.lower()} {numbers.count(summary[memory.name])} {memory.unit}")
    return f"Speed: {', '.join(parts)}." if parts else None


def checkpoint_table(inputs: Inputs, summary: dict[str, Any]) -> Markdown | None:
    """Return the evaluations: all, or thinned evenly around those that matter; None for fewer than two."""
    entries = [entry for measure in columns.measures() for entry in columns.COLUMNS if entry.measure == measure]
    measured = [(entry, curve) for entry in entries if len(curve := inputs.curve(entry.name))]
    steps = sorted({int(step) for _, curve in measured for step in curve.steps})
    if len(steps) < 2:
        return None
    best = summary["best_val_loss_step"]
    telling = {steps[0], steps[-1], best, summary["steps_to_train_accuracy"], summary["steps_to_val_accuracy"]}
    kept = _thin_evenly(steps, telling & set(steps))
    tokens = {row["step"]: row["tokens"] for row in inputs.rows}

    def cell(entry: Column, value: float | None, step: int) -> str:
        shown = numbers.formatter(entry.name)(value)
        return Markdown(f"**{shown}**") if entry.name == "val_loss" and step == best else shown

    rows = [
        [f"{step:,}", numbers.count(tokens[step]), *(cell(entry, curve.at(step), step) for entry, curve in measured)]
        for step in kept
    ]
    shown = "all" if len(kept) == len(steps) else f"{len(kept)} of"
    caption = (
        f"Evaluations during training ({shown} {len(steps):,}): losses in nats per counted token, the best validation "
        "loss in bold."
    )
    return table(["Step", "Tokens", *(entry.label for entry, _ in measured)], rows, 0, below=caption)


def _thin_evenly(steps: list[int], telling: set[int]) -> list[int]:
    if len(steps) <= MAX_CHECKPOINTS:
        return steps
    spread = np.linspace(0, len(steps) - 1, MAX_CHECKPOINTS - max(0, len(telling) - 2)).round().astype(int)
    return sorted(telling | {steps[index] for index in spread})
