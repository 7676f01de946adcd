"""Text of any origin, put into a Markdown page so that it cannot change the page around it."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from gpt2lab.record.markdown import Markdown, escape, one_line, visible

_BACKTICKS = re.compile(r"`+")

TableColumn = tuple[str, Sequence[Any]]  # its head, and a cell for each row


def code(value: Any) -> Markdown:
    """Return a value as inline code, safe in a table cell; an empty value gives nothing."""
    text = one_line(str(value))
    if not text:
        return Markdown("")
    ticks = "`" * (_longest_run(text) + 1)
    padding = " " if text[0] == "`" or text[-1] == "`" else ""
    inner = text.replace("|", "\\|")  # the one character a table takes before code does
    return Markdown(f"{ticks}{padding}{inner}{padding}{ticks}")


def table_row(cells: Iterable[Any]) -> str:
    """Return one row of a table."""
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def table(
    heads: Sequence[Any], rows: Iterable[Iterable[Any]], n_text: int = 1, *, below: str = "", last_is_text: bool = False
) -> Markdown:
    """Return a table, and a paragraph `below` it; the first `n_text` columns are text, the others numbers."""
    rule = "|" + " :--- |" * n_text + " ---: |" * (len(heads) - n_text - last_is_text) + " :--- |" * last_is_text
    lines = [table_row(heads), rule, *map(table_row, rows)]
    return Markdown("\n".join([*lines, "", escape(below)] if below else lines))


def columns_table(columns: Iterable[TableColumn | None], n_text: int, **layout: Any) -> Markdown:
    """Return a table as `table` does, from columns; those that are None are left out."""
    heads, cells = zip(*filter(None, columns), strict=True)
    return table(heads, zip(*cells, strict=True), n_text, **layout)


def facts_table(facts: Iterable[tuple[str, Any]], name: str = "") -> Markdown:
    """Return (what, value) rows as a table, without those that have no value."""
    head = f"| {escape(name)}".rstrip() + " | |"
    return Markdown("\n".join([head, "| :--- | :--- |", *(table_row(fact) for fact in facts if fact[1])]))


def fence(text: str, language: str = "text") -> Markdown:
    """Return `text` as a code block whose fence is longer than any run of backticks in it."""
    body = visible(text.replace("\r\n", "\n").replace("\r", "\n")).rstrip("\n")
    ticks = "`" * max(3, _longest_run(body) + 1)
    return Markdown(f"{ticks}{language}\n{body}\n{ticks}")


def _longest_run(text: str) -> int:
    return max(map(len, _BACKTICKS.findall(text)), default=0)
