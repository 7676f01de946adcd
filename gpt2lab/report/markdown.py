"""Text of any origin, put into a Markdown page so that it cannot change the page around it.

Names, hypotheses, samples and versions are shown as they are: `escape`, `code` and `fence`. A person's notes are
Markdown themselves and stay so: `notes` keeps their lists, tables, links and code, takes their raw HTML as text,
and puts their headings below ours.
"""

import re
from collections.abc import Iterable
from typing import Any


class Markdown(str):
    """Text that is Markdown already. Everything else that a template prints is escaped."""

    __slots__ = ()


# Zero-width and direction-changing characters: invisible, and able to reorder what a reader sees.
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=[#A-Za-z])")
_LINE_START = re.compile(r"([-+=])(?=[-+= ]|$)|(\d{1,9})([.)])(?= |$)")
_BACKTICKS = re.compile(r"`+")
_AUTOLINK = re.compile(r"<(?:https?://|mailto:)[^\s<>`]*>")
_TAG_START = re.compile(r"<(?=[A-Za-z/!?])")
_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,})")
_INDENTED_FENCE = re.compile(r" {1,3}(?:`{3,}[^`]*$|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)]) {1,4}(?=[^ \t])")
_RULE = re.compile(r"([-*])[ \t]*(?:\1[ \t]*){2,}$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_LONGEST_ITEM = 100  # lines in which the beginning of a list item is looked for


def _visible(text: str) -> str:
    """Replace control characters by their pictures, and drop invisible ones."""
    text = _CONTROL.sub(lambda match: "␡" if match[0] == "\x7f" else chr(0x2400 + ord(match[0])), text)
    return _INVISIBLE.sub("", text)


def one_line(text: str) -> str:
    """Return `text` on one line, white space collapsed and nothing invisible left."""
    return _visible(" ".join(text.split()))


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


def code(value: Any) -> Markdown:
    """Return a value as inline code, safe in a table cell; an empty value gives nothing."""
    text = one_line(str(value))
    if not text:
        return Markdown("")
    longest = max((len(run) for run in _BACKTICKS.findall(text)), default=0)
    ticks = "`" * (longest + 1)
    padding = " " if text[0] == "`" or text[-1] == "`" else ""
    inner = text.replace("|", "\\|")  # the one character a table takes before code does
    return Markdown(f"{ticks}{padding}{inner}{padding}{ticks}")


def table_row(cells: Iterable[Any]) -> Markdown:
    """Return one row of a table."""
    return Markdown("| " + " | ".join(escape(cell) for cell in cells) + " |")


def fence(text: str, language: str = "text") -> Markdown:
    """Return `text` as a code block whose fence is longer than any run of backticks in it."""
    body = _visible(text.replace("\r\n", "\n").replace("\r", "\n")).rstrip("\n")
    longest = max((len(run) for run in _BACKTICKS.findall(body)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Markdown(f"{ticks}{language}\n{body}\n{ticks}")


def take_section(text: str, heading: str) -> tuple[str, str]:
    """Return (what stands below the heading of that name, the rest); ("", text) where there is no such heading."""
    blocks = _split_fences(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    lines = [line for block, _ in blocks for line in block]
    prose = [not is_code for block, is_code in blocks for _ in block]
    headings = [(n, len(match[1])) for n, line in enumerate(lines) if prose[n] and (match := _HEADING.match(line))]
    for n, depth in headings:
        if lines[n].strip().strip("#").strip().casefold() == heading.casefold():
            end = next((m for m, other in headings if m > n and other <= depth), len(lines))
            return "\n".join(lines[n + 1 : end]), "\n".join(lines[:n] + lines[end:])
    return "", text


def notes(text: str, level: int = 3) -> Markdown:
    """Return a person's Markdown for a place below headings of `level` - 1.

    Comments and headings with nothing below them are left out; a file with nothing else gives nothing. The highest
    heading becomes `level`. A code block that was left open is closed.
    """
    lines = _without_comments(text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    blocks = [
        (block if is_code else _escape_html(_atx_headings(block)), is_code)
        for block, is_code in _split_fences([_CONTROL.sub("", line) for line in lines])
    ]
    depths = [depth for block, is_code in blocks if not is_code for depth in _headings(block).values()]
    shift = level - min(depths, default=level)
    result: list[str] = []
    open_headings: list[tuple[int, int]] = []  # (depth, index in result) of headings that have no text yet
    for block, is_code in blocks:
        found = {} if is_code else _headings(block)
        for number, line in enumerate(block):
            if number in found:
                depth = min(6, found[number] + shift)
                while open_headings and open_headings[-1][0] >= depth:
                    del result[open_headings.pop()[1] :]
                open_headings.append((depth, len(result)))
                line = "#" * depth + line.lstrip(" ").lstrip("#")
            elif not _is_blank(line):
                open_headings.clear()
            result.append(line)
    if open_headings:
        del result[open_headings[0][1] :]
    return Markdown(re.sub(r"\n{3,}", "\n\n", "\n".join(result)).strip("\n"))


def _without_comments(text: str) -> str:
    """Leave out what stands between <!-- and -->; looked for once, so that many open ones take no longer."""
    kept, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        kept.append(text[at:start])
        at = end + 3
    return "".join(kept) + text[at:]


def _split_fences(lines: list[str]) -> list[tuple[list[str], bool]]:
    """Split into blocks of prose and of code, (lines, is code).

    Only a fence that begins a line unindented counts: that is a code block in any context, so what is kept raw here
    is code to every reader of the page. A fence inside a list item is left to it, as prose: the item's end closes it.
    Any other indented fence is moved to the left edge, where it is one for certain.
    """
    blocks: list[tuple[list[str], bool]] = [([], False)]
    closing: re.Pattern[str] | None = None
    for line in lines:
        if closing is None and _INDENTED_FENCE.match(line) and not _in_item(blocks[-1][0], line):
            line = line.lstrip(" ")
        opened = _FENCE.match(line) if closing is None else None
        if opened:
            marks = opened[1] or opened[2]
            closing = re.compile(rf" {{0,3}}{marks[0]}{{{len(marks)},}}[ \t]*$")
            blocks.append(([line], True))
            end = marks
        else:
            blocks[-1][0].append(line)
            if closing is not None and closing.match(line):
                closing = None
                blocks.append(([], False))
    if closing is not None:
        blocks[-1][0].append(end)
    return blocks


def _is_blank(line: str) -> bool:
    return not line.strip(" \t")


def _in_item(before: list[str], line: str) -> bool:
    """Whether an indented line stands, beyond doubt, inside the list item that the prose `before` it ends with."""
    indent = len(line) - len(line.lstrip(" "))
    paragraph: list[str] = []
    for earlier in reversed(before[-_LONGEST_ITEM:]):
        if _is_blank(earlier) and paragraph and paragraph[-1][0] != " ":
            break
        if not _is_blank(earlier):
            paragraph.append(earlier)
    else:
        if len(before) > _LONGEST_ITEM:
            return False
    edge = [earlier for earlier in paragraph if earlier[0] != " "]
    items = [_ITEM.match(earlier) for earlier in edge if not _RULE.match(earlier)]
    if not edge or paragraph[-1][0] == " " or len(items) < len(edge) or items[0] is None or not all(items):
        return False
    return indent >= len(items[0][0])


def _headings(lines: list[str]) -> dict[int, int]:
    """Return {line number: depth} of the headings in prose, those inside list items aside."""
    return {
        number: len(match[1])
        for number, line in enumerate(lines)
        if (match := _HEADING.match(line)) and not (line[0] == " " and _in_item(lines[:number], line))
    }


def _atx_headings(lines: list[str]) -> list[str]:
    """Write headings that are underlined with === or --- as # and ##."""
    result: list[str] = []
    for line in lines:
        underline = _UNDERLINE.match(line)
        above = result[-1] if result else ""
        if underline and re.match(r" {0,3}[^\s#>|*+-]", above):
            result[-1] = ("# " if "=" in line else "## ") + above.strip()
        elif underline and not _is_blank(above):
            # Below a list item, a quotation or a table row: a rule, not a heading.
            result += ["", line]
        else:
            result.append(line)
    return result


def _escape_html(lines: list[str]) -> list[str]:
    """Write raw HTML as text, paragraph by paragraph; links in angle brackets and code spans stay."""
    result: list[str] = []
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if not _is_blank(line):
            paragraph.append(line)
            continue
        spans = [_code_spans(part) for part in paragraph]
        # A code span over several lines would make "inside" and "outside" guesses: then nothing is trusted.
        trusted = all(closed for _, closed in spans)
        for part, (ranges, _) in zip(paragraph, spans, strict=True):
            result.append(_escape_line(part, ranges if trusted else []))
        paragraph = []
        result.append(line)
    return result[:-1]


def _code_spans(line: str) -> tuple[list[tuple[int, int]], bool]:
    """Return the (start, end) of each code span in a line, and whether every run of backticks found its partner."""
    ranges, closed, at = [], True, 0
    while match := re.compile(r"\\.|`+").search(line, at):
        at = match.end()
        if match[0][0] == "\\":
            continue
        partner = next((run for run in _BACKTICKS.finditer(line, at) if len(run[0]) == len(match[0])), None)
        if partner is None:
            closed = False
            continue
        ranges.append((match.start(), partner.end()))
        at = partner.end()
    return ranges, closed


def _escape_line(line: str, spans: list[tuple[int, int]]) -> str:
    kept = spans + [match.span() for match in _AUTOLINK.finditer(line)]
    inside = {index for start, end in kept for index in range(start, end)}
    return _TAG_START.sub(lambda match: "<" if match.start() in inside else "&lt;", line)
