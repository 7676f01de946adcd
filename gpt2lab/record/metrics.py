"""metrics.csv: what a run measured, one row per logged step, blank where nothing was measured.

The file only grows. A row is one write call, so a killed process leaves at most one torn line, at the end, and
floats are written with `repr`, so a value read back is the value that was measured. Row 0 is before training.
"""

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import disk_errors, read_plain_file, write_atomic

MAX_BYTES = 256 << 20  # two million rows

Row = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of metrics.csv."""

    name: str
    unit: str  # "" for a plain number
    description: str


COLUMNS: tuple[Column, ...] = (
    Column("step", "updates", "optimizer updates done; row 0 is before training"),
    Column("tokens", "tokens", "training tokens consumed so far"),
    Column("train_loss", "nats/token", "mean loss over the counted tokens of this update's batch, before the update"),
    Column("train_eval_loss", "nats/token", "loss on the training split, measured as val_loss is"),
    Column("train_accuracy", "", "share of counted training tokens predicted right"),
    Column("val_loss", "nats/token", "loss on the validation split"),
    Column("val_accuracy", "", "share of counted validation tokens predicted right"),
    Column("test_loss", "nats/token", "loss on the test split"),
    Column("test_accuracy", "", "share of counted test tokens predicted right"),
    Column("lr", "", "learning rate of the last update"),
    Column("grad_norm", "", "global L2 norm of the last gradient, before clipping"),
    Column("step_ms", "ms", "mean time of one update since the last row"),
    Column("tokens_per_s", "tokens/s", "training throughput at that mean time of one update"),
    Column("elapsed_s", "s", "training time so far, evaluation not counted"),
    Column("peak_mem_mib", "MiB", "highest memory use so far, of the device or else of the process"),
)
COLUMN_NAMES = tuple(column.name for column in COLUMNS)

# What differs between two runs of the same config on the same machine.
TIMING_COLUMNS = ("step_ms", "tokens_per_s", "elapsed_s", "peak_mem_mib")

_LAST_STEP = 2**53  # beyond it a float is no step of its own
_LARGEST = 2**63 - 1  # of a count, as numpy and other readers take it
_MAX_DIGITS = 19
_INTEGERS = frozenset({"step", "tokens"})
_HEADER = (",".join(COLUMN_NAMES) + "\n").encode()


def _cell(name: str, value: float | int | None) -> str:
    if value is None:
        return ""
    return repr(int(value)) if name in _INTEGERS else repr(float(value))


class MetricsWriter:
    """Appends rows to metrics.csv; an existing file is continued after its last whole row.

    Raises ArchiveError when the file cannot be written (disk full) or holds other columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors("write", path):
            path.touch(exist_ok=True)
            whole = _whole_lines(path.read_bytes())
            if whole and not whole.startswith(_HEADER):
                raise ArchiveError(
                    f"{path}: its columns are not those of this version ({','.join(COLUMN_NAMES)}); "
                    "continue the run with the version that began it, or start a new one"
                )
            os.truncate(path, len(whole))
            # Unbuffered: a row is handed to the system in the one call that wrote it.
            self._file = path.open("ab", buffering=0)
        if not whole:
            self._write(_HEADER)

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Add one row. Columns that are absent or None stay blank; `step` is required."""
        unknown = row.keys() - set(COLUMN_NAMES)
        assert not unknown, f"no such column of metrics.csv: {sorted(unknown)}"
        assert row.get("step") is not None, "a row of metrics.csv needs its step"
        self._write((",".join([_cell(name, row.get(name)) for name in COLUMN_NAMES]) + "\n").encode())

    def _write(self, line: bytes) -> None:
        try:
            written = self._file.write(line)
        except OSError as error:
            raise ArchiveError(f"{self.path}: cannot append: {(error.strerror or str(error)).lower()}") from error
        if written != len(line):  # a disk that fills up takes the first part of a line
            raise ArchiveError(f"{self.path}: cannot append: no space left on device")

    def sync(self) -> None:
        """Have every row on the disk, before a checkpoint that counts on them."""
        with disk_errors("write", self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _whole_lines(content: bytes) -> bytes:
    """Return `content` up to its last line end: what follows was torn by a kill."""
    return content[: content.rfind(b"\n") + 1]


def _value(name: str, cell: str) -> float | int:
    """Return the number in a cell. Raises ValueError, also for what Python alone takes for one, like 1_0."""
    if "_" in cell:
        raise ValueError(cell)
    if name not in _INTEGERS:
        return float(cell)
    if not cell.isdigit() or len(cell) > _MAX_DIGITS or int(cell) > _LARGEST:
        raise ValueError(cell)
    return int(cell)


def _parse(path: Path, whole: bytes) -> list[Row]:
    try:
        lines = list(csv.reader(whole.decode("ascii").split("\n")[:-1], quoting=csv.QUOTE_NONE))
    except (UnicodeDecodeError, csv.Error):
        bad = next((n for n, line in enumerate(whole.split(b"\n"), 1) if not line.isascii()), 1)
        raise ArchiveError(f"{path}, line {bad}: damaged, it holds bytes that no row has") from None
    if not lines:
        return []
    header = lines[0]
    if header[:1] != ["step"] or len(set(header)) != len(header):
        raise ArchiveError(f"{path}, line 1: expected the column names, beginning with step; got {header[:3]}")
    rows: list[Row] = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(header):
            raise ArchiveError(f"{path}, line {number}: damaged, {len(cells)} cells instead of {len(header)}")
        row: Row = dict.fromkeys(COLUMN_NAMES)
        for name, cell in zip(header, cells, strict=True):
            try:
                row[name] = None if cell == "" else _value(name, cell)
            except ValueError:
                raise ArchiveError(f"{path}, line {number}: damaged, {name} is {cell[:40]!r}, not a number") from None
        if row["step"] is None:
            raise ArchiveError(f"{path}, line {number}: damaged, it has no step")
        lowest = rows[-1]["step"] + 1 if rows else 0  # type: ignore[operator]
        if not lowest <= row["step"] <= _LAST_STEP:
            raise ArchiveError(
                f"{path}, line {number}: damaged, step {cells[0][:40]}, expected one from {lowest} to {_LAST_STEP}"
            )
        rows.append(row)
    return rows


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of metrics.csv, every column of COLUMNS in each, None where nothing was measured.

    A torn last line is dropped; a file that an older version wrote lacks columns, which read as None.
    Steps ascend, from 0 or later. Raises ArchiveError naming file and line for a damaged row, and for a missing file.
    """
    return _parse(path, _whole_lines(read_plain_file(path, MAX_BYTES)))


def drop_rows_after(path: Path, step: int) -> None:
    """Remove the rows of later steps than `step`, at once or not at all; the others keep their bytes.

    A run that resumes from a checkpoint at `step` measures those rows again. Raises ArchiveError as `read_metrics`.
    """
    with disk_errors("read", path):
        whole = _whole_lines(path.read_bytes())
    rows = _parse(path, whole)
    lines = [line + b"\n" for line in whole.split(b"\n")[:-1]]
    kept = [line for line, row in zip(lines[1:], rows, strict=True) if (row["step"] or 0) <= step]
    write_atomic(path, b"".join(lines[:1] + kept))
