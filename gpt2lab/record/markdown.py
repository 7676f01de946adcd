"""Text of any origin as one line of Markdown that shows exactly that text, in an index or a report."""

import re
from typing import Any


class Markdown(str):
    """Text that is Markdown already. Everything else that goes into a page is escaped."""

    __slots__ = ()


# Zero-width, direction-changing and tag characters are invisible and can reorder what a reader sees; half of a
# surrogate pair cannot be written to a file.
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=[#A-Za-z])")
_LINE_START = re.compile(r"([-+=])(?=[-+= ]|$)|(\d{1,9})([.)])(?= |$)")


def visible(text: str) -> str:
    """Replace control characters by their pictures, and drop invisible ones."""
    text = _CONTROL.sub(lambda match: "␡" if match[0] == "\x7f" else chr(0x2400 + ord(match[0])), text)
    return _INVISIBLE.sub("", text)


def one_line(text: str) -> str:
    """Return `text` on one line, white space collapsed and nothing invisible left."""
    return visible(" ".join(text.split()))


def escape(value: Any) -> Markdown:
    """Return a value as one line of Markdown that shows exactly its text, also inside a table cell."""
    if isinstance(value, Markdown):
        return value

    def plain(match: re.Match[str]) -> str:
        return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(match[0], "\\" + match[0])

    text = _SPECIAL.sub(plain, one_line(str(value)))
    start = _LINE_START.match(text)
    if start:  # a value that begins a line must not begin a list or a rule
        text = f"\\{text}" if start[1] else f"{start[2]}\\{text[start.end(2) :]}"
    return Markdown(text)
