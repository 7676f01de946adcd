"""Text of any origin, put into a Markdown page so that it cannot change the page around it."""

import re
from collections.abc import Iterable
from typing import Any

from gpt2lab.record.markdown import Markdown, escape, one_line, visible

__all__ = ["Markdown", "code", "escape", "fence", "one_line", "table_row"]

_BACKTICKS = re.compile(r"`+")


def code(value: Any) -> Markdown:
    """Return a value as inline code, safe in a table cell; an empty value gives nothing."""
    text = one_line(str(value))
    if not text:
        return Markdown("")
    ticks = "`" * (_longest_run(text) + 1)
    padding = " " if text[0] == "`" or text[-1] == "`" else ""
    inner = text.replace("|", "\\|")  # the one character a table takes before code does
    return Markdown(f"{ticks}{padding}{inner}{padding}{ticks}")


def table_row(cells: Iterable[Any]) -> Markdown:
    """Return one row of a table."""
    return Markdown("| " + " | ".join(escape(cell) for cell in cells) + " |")


def fence(text: str, language: str = "text") -> Markdown:
    """Return `text` as a code block whose fence is longer than any run of backticks in it."""
    body = visible(text.replace("\r\n", "\n").replace("\r", "\n")).rstrip("\n")
    ticks = "`" * max(3, _longest_run(body) + 1)
    return Markdown(f"{ticks}{language}\n{body}\n{ticks}")


def _longest_run(text: str) -> int:
    return max(map(len, _BACKTICKS.findall(text)), default=0)
