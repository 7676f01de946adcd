"""The metrics: one `Column` for each column of metrics.csv. No other table lists them.

A new metric is one more entry; whatever measures it puts its name into a row.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal

SPLITS = ("train", "val", "test")

Format = Literal["loss", "share", "count", "decimal", "scientific"]

# How a terminal writes each kind of number. Reports have rules of their own for them, in report/numbers.py.
_TEXT: dict[Format, str] = {
    "loss": "{:.4f}",
    "share": "{:.1%}",
    "count": "{:,.0f}",
    "decimal": "{:.2f}",
    "scientific": "{:.2e}",
}
_BRIEF = _TEXT | {"loss": "{:.3f}"}  # where many runs stand below each other
_LIMITS: dict[Format, tuple[float, float]] = {"loss": (0.0, math.inf), "share": (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Column:
    """One metric: a column of metrics.csv, and everything that other parts know about it."""

    name: str
    label: str  # in the words of a report
    description: str  # in the table of README.md
    _: KW_ONLY
    unit: str = ""  # "" for a plain number
    format: Format = "decimal"
    higher_is_better: bool | None = None  # None: a setting or a count, by which runs are not compared
    timing: bool = False  # differs between two runs of the same config on the same machine
    integer: bool = False
    short: str = ""  # label on a progress line; "": not shown there
    split: str = ""  # the one that an evaluation is over, of SPLITS; "": measured in training
    measure: str = ""  # the property of an engine's Evaluation that it is

    def text(self, value: float, *, brief: bool = False) -> str:
        """Return a value as a terminal shows it, or briefer, as the index of the archive does."""
        return (_BRIEF if brief else _TEXT)[self.format].format(value)

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest value that there can be, from the format."""
        return _LIMITS.get(self.format, (-math.inf, math.inf))


def _loss(name: str, label: str, description: str, short: str, *, split: str = "") -> Column:
    return Column(
        name,
        label,
        description,
        unit="nats per counted token",
        format="loss",
        higher_is_better=False,
        short=short,
        split=split,
        measure="loss" if split else "",
    )


def _accuracy(split: str, label: str, tokens: str) -> Column:
    return Column(
        f"{split}_accuracy",
        label,
        f"share of counted {tokens} tokens predicted right",
        format="share",
        higher_is_better=True,
        short="acc",
        split=split,
        measure="accuracy",
    )


_UPDATE = "mean loss over the counted tokens of this update's batch, before the update"
COLUMNS: tuple[Column, ...] = (
    Column(
        "step", "Step", "optimizer updates done; row 0 is before training", unit="updates", format="count", integer=True
    ),
    Column("tokens", "Tokens", "training tokens consumed so far", unit="tokens", format="count", integer=True),
    _loss("train_loss", "Training loss, running", _UPDATE, "train"),
    _loss(
        "train_eval_loss",
        "Training loss",
        "loss on the training split, measured as val_loss is",
        "train (eval)",
        split="train",
    ),
    _accuracy("train", "Training accuracy", "training"),
    _loss("val_loss", "Validation loss", "loss on the validation split", "val", split="val"),
    _accuracy("val", "Validation accuracy", "validation"),
    _loss("test_loss", "Test loss", "loss on the test split", "test", split="test"),
    _accuracy("test", "Test accuracy", "test"),
    Column("lr", "Learning rate", "learning rate of the last update", format="scientific", short="lr"),
    Column("grad_norm", "Gradient norm", "global L2 norm of the last gradient, before clipping", short="|g|"),
    Column("step_ms", "Time of an update", "mean time of one update since the last row", unit="ms", timing=True),
    Column(
        "tokens_per_s",
        "Throughput",
        "training throughput at that mean time of one update",
        unit="tokens/s",
        format="count",
        timing=True,
        short="tok/s",
    ),
    Column(
        "elapsed_s",
        "Training time",
        "training time so far, evaluation not counted",
        unit="s",
        higher_is_better=False,
        timing=True,
    ),
    Column(
        "peak_mem_mib",
        "Peak memory",
        "highest memory use so far, of the device or else of the process",
        unit="MiB",
        higher_is_better=False,
        timing=True,
    ),
)


def column(name: str) -> Column:
    """Return the entry of a metric; for a name without one, as other versions may write, a plain number."""
    return next((entry for entry in COLUMNS if entry.name == name), Column(name, name, ""))


def result_names() -> list[str]:
    """Return the metrics by which runs can be compared."""
    return [entry.name for entry in COLUMNS if entry.higher_is_better is not None]


def measures() -> list[str]:
    """Return what an evaluation measures, over whichever split."""
    return list(dict.fromkeys(entry.measure for entry in COLUMNS if entry.measure))


def evaluated(split: str) -> dict[str, Column]:
    """Return the metrics of an evaluation over `split`, by measure."""
    return {entry.measure: entry for entry in COLUMNS if entry.split == split}
