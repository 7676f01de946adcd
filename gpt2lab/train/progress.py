"""Console output while a run trains: a live bar on a terminal, plain lines in a log file."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gpt2lab.model.band_tiles import products_in_words
from gpt2lab.model.bands import is_dense
from gpt2lab.model.flops import rows_in_words
from gpt2lab.record import columns
from gpt2lab.record.metrics import Row
from gpt2lab.train.loop import Ending

LOG_INTERVAL_S = 10.0  # between plain lines that report no evaluation


class Display:
    """Shows rows as they come. On a terminal a bar moves below the lines; elsewhere only lines are printed."""

    def __init__(self, console: Console, *, first_step: int, max_steps: int) -> None:
        self._console = console
        self._last_line_s = float("-inf")
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=max_steps, completed=first_step, facts="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, step: int) -> None:
        """Move the bar to `step` updates done."""
        self._progress.update(self._task, completed=step)

    def show(self, row: Row) -> None:
        """Show a row of metrics: always when it holds an evaluation, else on the bar or every ten seconds."""
        self._progress.update(self._task, facts=format_row(row, "train_loss", "tokens_per_s"))
        now = time.monotonic()
        is_due = self._progress.disable and now - self._last_line_s > LOG_INTERVAL_S
        if is_due or row.get("val_loss") is not None:
            self._last_line_s = now
            print_lines(self._console, f"step {row['step']:>6}  {format_row(row)}")


class Transfer:
    """Shows the progress of a download or a tokenisation, while there is one.

    Called with a description, the bytes done and the total bytes. Without a terminal each step is one line.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tasks:
            self._progress.stop()

    def __call__(self, what: str, done_bytes: int, total_bytes: int) -> None:
        if what not in self._tasks:
            if self._progress.disable:
                print_lines(self._console, f"{what} ({total_bytes:,} bytes)")
            self._tasks[what] = self._progress.add_task(what, total=total_bytes)
            self._progress.start()
        self._progress.update(self._tasks[what], completed=done_bytes, total=total_bytes)


def print_lines(console: Console, *lines: str, style: str | None = None) -> None:
    """Print lines as they are: rich colours, wraps and interprets nothing in them."""
    console.print(*lines, sep="\n", style=style, highlight=False, markup=False, soft_wrap=True)


def format_row(row: Row, *names: str) -> str:
    """Return the measured values of a row as one short text; `names` limits it to these metrics."""
    shown = [entry for entry in columns.COLUMNS if entry.short and entry.name in (names or row)]
    values = [(entry, row.get(entry.name)) for entry in shown]
    return "  ".join(f"{entry.short} {entry.text(value)}" for entry, value in values if value is not None)


def print_header(console: Console, facts: Mapping[str, Any], *, first_step: int) -> None:
    """Print model, data and engine; `facts` are the sections of provenance.json."""
    model, data, engine = facts["model"], facts["data"], facts["engine"]
    bands = [f"{name} {model[key]}" for name, key in (("FC1", "fc1_band"), ("FC2", "fc2_band")) if model[key]]
    lines = [
        f"model    {model['n_layer']} layers, {model['n_head']} heads, {model['n_embd']} channels: "
        f"{model['n_params_active']:,} parameters" + (f", band {', '.join(bands)}" if bands else ""),
        f"data     {data['name']}: {data['splits']['train']['tokens']:,} training tokens, vocabulary "
        f"{data['vocab_size']:,}, batch {model['batch_size']} x {model['seq_len']}",
        f"engine   {engine['name']} on {engine['device']} ({engine['device_name']}), {engine['precision']}",
    ]
    lines += _products(model)
    work = model["work"]
    dense, computed = model["flop_per_token_dense"], model["flop_per_token_computed"]
    if computed < dense:
        rows, last_rows = work["nodes"], work["last_layer_rows"]
        what = rows_in_words(rows, last_rows, work["positions"], trees=work["trees"], passes=work["passes"])
        lines.append(f"work     {what}; {dense / computed:.2f} times fewer FLOP than the plain batch")
    if first_step:
        lines.append(f"resume   from step {first_step}")
    print_lines(console, *lines)


def _products(model: Mapping[str, Any]) -> list[str]:
    """Return how the products of banded matrices are done; matrices in one line where it is the same."""
    matrices: dict[str, list[str]] = {}
    for name in ("fc1", "fc2"):
        if not is_dense(model["n_embd"], model[f"{name}_band"]):
            words = products_in_words(model["n_embd"], model["mlp_tiles"][name], model["why_dense"])
            matrices.setdefault(words, []).append(name.upper())
    return [f"bands    {' and '.join(names)}: {words}" for words, names in matrices.items()]


def print_ending(console: Console, ending: Ending, facts: Mapping[str, Any], run_dir: Path) -> None:
    """Say how the run ended, and how its validation loss compares with what is known about the data."""
    row = ending.last_row
    lines = [f"{ending.state} at step {ending.step}: {ending.reason}"]
    if ending.state == "interrupted":
        lines.append(f"continue python -m gpt2lab.run resume={run_dir}")
    elif row.get("val_loss") is not None:
        bounds = [f"random guess {facts['model']['random_guess_loss']:.4f}"]
        # The unigram entropy is over all positions: it does not apply to the counted ones alone.
        if facts["model"]["counted_positions"] is None:
            bounds.append(f"unigram entropy {facts['data']['unigram_entropy']:.4f}")
        if facts["model"]["best_val_loss"] is not None:
            bounds.append(f"best reachable {facts['model']['best_val_loss']:.4f}")
        loss = float(row["val_loss"] or 0)
        perplexity = math.exp(min(loss, 700.0))
        lines.append(f"val loss {loss:.4f} nats per token (perplexity {perplexity:.2f}; {', '.join(bounds)})")
    print_lines(console, *lines)
