"""Text of any origin on a terminal: no control code gets through, and a table costs no more than its text."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len

from gpt2lab.record.markdown import one_line

_LONGEST_CELL = 60  # characters


def printable(text: str) -> str:
    """Return `text` with a ? for every character that a terminal could obey instead of show; lines stay lines."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def json_value(value: Any) -> Any:
    """Return a value as JSON has it: bytes in hex, a number that is not finite as text."""
    if isinstance(value, bytes):
        return value.hex()
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: str) -> Iterator[str]:
    """Yield the lines of a table; `right` has an r for each column that is written to the right edge.

    A list of thousands is one of strings, not of rich's objects, which take a millisecond a row.
    """
    cells = [[_cell(text) for text in row] for row in (titles, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = []
        for text, width, side in zip(row, widths, right, strict=True):
            space = " " * (width - cell_len(text))
            padded.append(space + text if side == "r" else text + space)
        yield "  ".join(padded).rstrip()


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> None:
    """Print a table of few rows and full cells, fitted to a terminal; `sides` has an l or r for each column."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width to fit into
    grid = Table(box=None, pad_edge=False)
    for title, side in zip(titles, sides, strict=True):
        grid.add_column(one_line(title), justify="right" if side == "r" else "left")
    for row in rows:
        grid.add_row(*map(one_line, row))
    console.print(grid)


def _cell(text: str) -> str:
    if len(text) > _LONGEST_CELL:
        text = text[: _LONGEST_CELL - 1] + "…"
    return text if text.isprintable() else " ".join(printable(text).split())
