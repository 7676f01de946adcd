"""metrics.csv: what a run measured, one row per logged step, blank where nothing was measured.

The file only grows. A row is one write call, so a killed process leaves at most one torn line, at the end, and
floats are written with `repr`, so a value read back is the value that was measured. Row 0 is before training.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from gpt2lab.errors import ArchiveError
from gpt2lab.record import columns as entries
from gpt2lab.record.columns import Column
from gpt2lab.record.disk import disk_errors, read_bytes, write_atomic

Row = dict[str, float | int | None]

_LAST_STEP = 2**53  # beyond it a float is no step of its own
_LARGEST = 2**63 - 1  # of a count, as numpy and other readers take it
_MAX_DIGITS = 19
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,99}")


class MetricsWriter(AbstractContextManager["MetricsWriter"]):
    """Appends rows to metrics.csv; an existing file is continued after its last whole row.

    A file that lacks some of `columns` (by default COLUMNS), as an older version wrote it, gets them behind its own,
    blank in the rows that are there. Raises ArchiveError when the file cannot be written (disk full) or is damaged.
    """

    def __init__(self, path: Path, columns: Sequence[Column] | None = None) -> None:
        self.path = path
        columns = entries.COLUMNS if columns is None else columns
        names = [entry.name for entry in columns]
        with disk_errors("write", path):
            path.touch(exist_ok=True)
            whole = _whole_lines(path.read_bytes())
            there = _header(path, whole) if whole else []
            missing = [name for name in names if name not in there]
            if whole and missing:
                whole = _append_columns(whole, missing)
                _header(path, whole)
                write_atomic(path, whole)
            os.truncate(path, len(whole))
            # Unbuffered: a row is handed to the system in the one call that wrote it.
            self._file = path.open("ab", buffering=0)
        self._names = [*there, *missing]
        self._integers = {entry.name for entry in columns if entry.integer}
        if not whole:
            self._write((",".join(names) + "\n").encode())

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Add one row. Columns that are absent or None stay blank; `step` is required."""
        unknown = row.keys() - set(self._names)
        assert not unknown, f"no such column of metrics.csv: {sorted(unknown)}"
        assert row.get("step") is not None, "a row of metrics.csv needs its step"
        self._write((",".join([self._cell(name, row.get(name)) for name in self._names]) + "\n").encode())

    def _cell(self, name: str, value: float | int | None) -> str:
        if value is None:
            return ""
        return repr(int(value)) if name in self._integers else repr(float(value))

    def _write(self, line: bytes) -> None:
        with disk_errors("append", self.path):
            written = self._file.write(line)
        if written != len(line):  # a disk that fills up takes the first part of a line
            raise ArchiveError(f"{self.path}: cannot append: no space left on device")

    def sync(self) -> None:
        """Have every row on the disk, before a checkpoint that counts on them."""
        with disk_errors("write", self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def _whole_lines(content: bytes) -> bytes:
    """Return `content` up to its last line end: what follows was torn by a kill."""
    return content[: content.rfind(b"\n") + 1]


def _header(path: Path, whole: bytes) -> list[str]:
    """Return the names in the first line. Raises ArchiveError for what is no name, or is there twice in any case."""
    names = whole.partition(b"\n")[0].decode("ascii", "replace").split(",")
    if names[0] != "step":
        raise ArchiveError(f"{path}, line 1: expected the column names, beginning with step; got {names[:3]}")
    first: dict[str, str] = {}
    for name, count in Counter(names).items():
        if not _NAME.fullmatch(name):
            raise ArchiveError(f"{path}, line 1: {name[:40]!r} is no column name; expected letters, digits and _./-")
        if count > 1:
            raise ArchiveError(f"{path}, line 1: {count} columns are named {name}; expected one of each name")
        if (other := first.setdefault(name.lower(), name)) != name:
            raise ArchiveError(f"{path}, line 1: {other} and {name} differ in case only; expected one of each name")
    return names


def _append_columns(whole: bytes, names: Sequence[str]) -> bytes:
    """Return the content with columns added at the end, blank in each row; the other bytes stay."""
    header, *lines = whole.split(b"\n")[:-1]
    blank = b"," * len(names) + b"\n"
    return b"".join([header, b",", ",".join(names).encode(), b"\n", *(line + blank for line in lines)])


def _value(cell: str, *, integer: bool) -> float | int:
    """Return the number in a cell. Raises ValueError, also for what Python alone takes for one, like 1_0."""
    if "_" in cell:
        raise ValueError(cell)
    if not integer:
        return float(cell)
    if not cell.isdigit() or len(cell) > _MAX_DIGITS or int(cell) > _LARGEST:
        raise ValueError(cell)
    return int(cell)


def _parse(path: Path, whole: bytes) -> list[Row]:
    if not whole:
        return []
    header, integers = _header(path, whole), {entry.name for entry in entries.COLUMNS if entry.integer}
    try:
        lines = list(csv.reader(whole.decode("ascii").split("\n")[:-1], quoting=csv.QUOTE_NONE))
    except (UnicodeDecodeError, csv.Error):
        bad = next((n for n, line in enumerate(whole.split(b"\n"), 1) if not line.isascii()), 1)
        raise ArchiveError(f"{path}, line {bad}: damaged, it holds bytes that no row has") from None
    rows: list[Row] = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(header):
            raise ArchiveError(f"{path}, line {number}: damaged, {len(cells)} cells instead of {len(header)}")
        row: Row = {entry.name: None for entry in entries.COLUMNS}
        for name, cell in zip(header, cells, strict=True):
            try:
                row[name] = None if cell == "" else _value(cell, integer=name in integers)
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
    """Return the rows of metrics.csv, every column of COLUMNS and of the file in each, None where nothing was measured.

    A torn last line is dropped. A column without an entry in COLUMNS is kept, as a plain number. Steps ascend, from 0
    or later. Raises ArchiveError naming file and line for a damaged row, and for a missing file.
    """
    return _parse(path, _whole_lines(read_bytes(path)))


def drop_rows_after(path: Path, step: int) -> None:
    """Remove the rows of later steps than `step`, at once or not at all; the others keep their bytes.

    A run that resumes from a checkpoint at `step` measures those rows again. Raises ArchiveError as `read_metrics`.
    """
    whole = _whole_lines(read_bytes(path))
    rows = _parse(path, whole)
    lines = [line + b"\n" for line in whole.split(b"\n")[:-1]]
    kept = [line for line, row in zip(lines[1:], rows, strict=True) if (row["step"] or 0) <= step]
    write_atomic(path, b"".join(lines[:1] + kept))
