"""What a report is made from: the files of one run or experiment directory, read once.

Nothing here or above it needs torch, the data or the engine: an old experiment can be reported again anywhere.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpt2lab.record.disk import disk_errors, read_bytes, read_json
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.values import look_up


@dataclass(frozen=True, slots=True)
class Curve:
    """One measured column: steps int64 (N,), ascending, and finite values float64 (N,)."""

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> tuple[int, float]:
        """Step and value of the last measurement."""
        return int(self.steps[-1]), float(self.values[-1])

    def best(self, largest: bool = False) -> tuple[int, float]:
        """Step and value of the lowest (or largest) measurement, the first where several are equal."""
        index = int(np.argmax(self.values) if largest else np.argmin(self.values))
        return int(self.steps[index]), float(self.values[index])

    def at(self, step: int) -> float | None:
        """The value measured at `step`, or None."""
        found = np.flatnonzero(self.steps == step)
        return float(self.values[found[0]]) if len(found) else None

    def since(self, step: int) -> "Curve":
        """The part measured at `step` or later."""
        return Curve(self.steps[self.steps >= step], self.values[self.steps >= step])


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The record of one run. `config`, `provenance` and `status` are nested plain values."""

    config: dict[str, Any]
    overrides: list[str]
    provenance: dict[str, Any]
    status: dict[str, Any]
    rows: list[dict[str, Any]]
    notes: str
    samples: dict[str, str]  # file name -> text

    def curve(self, column: str) -> Curve:
        """The rows of metrics.csv in which `column` was measured and is finite."""
        steps = np.array([row["step"] for row in self.rows], dtype=np.int64)
        values = np.array([row.get(column) for row in self.rows], dtype=np.float64)  # nan where it was not measured
        return Curve(steps[np.isfinite(values)], values[np.isfinite(values)])

    def not_finite(self, *columns: str) -> list[int]:
        """Steps at which one of `columns` was measured and is infinite or not a number."""
        measured = ((row["step"], row.get(name)) for row in self.rows for name in columns)
        return sorted({step for step, value in measured if value is not None and not math.isfinite(value)})

    def fact(self, path: str) -> Any:
        """Look up `provenance.model.n_layer` and the like; None where any part of the path is absent."""
        file, _, keys = path.partition(".")
        return look_up(getattr(self, file), keys)


def _read_text(path: Path) -> str:
    # Samples and notes are shown, not computed with: a stray byte must not cost the report.
    return read_bytes(path).decode("utf-8", errors="replace")


def read_inputs(directory: Path) -> Inputs:
    """Read the record of a run. Raises ArchiveError naming the file that is missing, or damaged."""
    record = RunDir(directory)
    metrics = directory / "metrics.csv"
    notes = directory / "notes.md"
    with disk_errors("read", directory):
        samples = sorted(directory.glob("samples/*.txt"))
    return Inputs(
        config=record.read_config(),
        overrides=record.read_overrides() if record.overrides.exists() else [],
        provenance=read_json(directory / "provenance.json"),
        status=read_json(directory / "status.json"),
        rows=list(read_metrics(metrics)) if metrics.exists() else [],
        notes=_read_text(notes) if notes.exists() else "",
        samples={path.name: _read_text(path) for path in samples},
    )


def flop_per_token(inputs: Inputs, kind: Literal["dense", "computed"]) -> int | None:
    """Return dense or computed FLOP per token (see model/flops.py); None where not recorded, or where runs differ.

    Older records call the dense figure `flop_per_token`. Some hold the FLOP of the first update, dense and done, with
    only the causal pairs of attention counted: their ratio is applied to the dense figure. The oldest do not say what
    was computed.
    """
    model = inputs.fact("provenance.model") or {}
    found = _count(model.get(f"flop_per_token_{kind}"))
    if found is not None:
        return found
    dense, work = _count(model.get("flop_per_token")), model.get("work") or {}
    if kind == "dense" or dense is None:
        return dense
    plain, done = _count(work.get("flop_dense")), _count(work.get("flop_done"))
    return round(dense * done / plain) if plain and done else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
