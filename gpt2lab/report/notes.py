"""A person's notes.md inside a page: their Markdown stays, below the headings of the page and unable to break it.

A Markdown parser says where headings, code and HTML are. Everything else keeps its characters: raw HTML is shown as
text, comments and headings with nothing below them are left out, and a code block that was left open is closed.
"""

import re
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from gpt2lab.record.markdown import Markdown

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_COMMENT = re.compile(r"<!--(?:.*?-->|(.*))", re.DOTALL)  # the group: all that follows one that is never closed
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_LINE_TAG = re.compile(r"^([ \t>]*)<(?=[A-Za-z/!?])(?![a-z]+:)", re.MULTILINE)  # begins a block even in a code span
_CELL_END = re.compile(r"(?<!\\)\|")


def _escape_html(state: StateInline, silent: bool) -> bool:
    """Inline rule: list what replaces the tag or comment that begins here, as (start, end, text)."""
    start, last = state.pos, state.env["last comment end"]
    if not _TAG.match(state.src, start):
        return False
    is_comment = state.src.startswith("<!--", start) and start + 4 <= last
    state.pos = state.src.index("-->", start + 4) + 3 if is_comment else start + 1
    state.env["replaced"].append((start, state.pos, "" if is_comment else "&lt;"))
    return True


# Blocks as a page has them, blocks as they are once HTML is text, and what in a block can hold a < that is no tag.
_PAGE = MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])
_TEXT = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["inline", "text_join"])
_SPANS = MarkdownIt("zero").enable(["escape", "backticks", "autolink"])
_SPANS.inline.ruler.push("escape_html", _escape_html)


def take_section(text: str, heading: str) -> tuple[str, str]:
    """Return (what stands below the heading of that name, the rest); ("", text) where there is no such heading."""
    lines, tokens = _parse(text, _PAGE)
    headings = _headings(tokens)
    for start, (below, depth, title) in headings.items():
        if title.casefold() == heading.casefold():
            ends = (line for line, (_, other, _) in headings.items() if line > start and other <= depth)
            end = next(ends, len(lines))
            return "\n".join(lines[below:end]), "\n".join(lines[:start] + lines[end:])
    return "", text


def merge_notes(text: str, level: int = 3) -> Markdown:
    """Return a person's Markdown for a place below headings of `level` - 1; the highest heading becomes `level`.

    A file with nothing but comments and empty headings gives "".
    """
    # First what a page takes for HTML, then what becomes a tag in the text that is left.
    lines, tokens = _parse(_html_as_text(_html_as_text(_CONTROL.sub("", _plain_ends(text)), _PAGE), _TEXT), _PAGE)
    headings = _headings(tokens)
    shift = level - min((depth for _, depth, _ in headings.values()), default=level)
    result: list[str] = []
    empty: list[tuple[int, int]] = []  # (depth, index in result) of headings that have no text yet
    number = 0
    while number < len(lines):
        line, below = lines[number], number + 1
        if number in headings:
            below, depth, title = headings[number]
            depth = min(6, depth + shift)
            while empty and empty[-1][0] >= depth:
                del result[empty.pop()[1] :]
            empty.append((depth, len(result)))
            line = f"{'#' * depth} {title}"
        elif line.strip(" \t"):
            empty.clear()
        result.append(line)
        number = below
    if empty:
        del result[empty[0][1] :]
    return Markdown(re.sub(r"\n{3,}", "\n\n", "\n".join(result)).strip("\n"))


def _plain_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse(text: str, parser: MarkdownIt) -> tuple[list[str], list[Token]]:
    """Return the lines of `text`, with a fence that was left open closed, and its blocks."""
    lines, tokens = _plain_ends(text).split("\n"), parser.parse(f"{text}\n")
    last = tokens[-1] if tokens else None
    if last is not None and last.type == "fence" and last.level == 0 and last.map:
        n_fences = last.map[1] - last.map[0] - last.content.count("\n")
        lines += [last.markup] * (n_fences == 1)
    return lines, tokens


def _headings(tokens: list[Token]) -> dict[int, tuple[int, int, str]]:
    """Return {line: (line below, depth, text)} of the headings that are not inside a list or a quotation."""
    return {
        token.map[0]: (token.map[1], int(token.tag[1]), inline.content.replace("\n", " ").strip())
        for token, inline in pairwise(tokens)
        if token.type == "heading_open" and token.level == 0 and token.map
    }


def _html_as_text(text: str, parser: MarkdownIt) -> str:
    """Escape the tags that `parser` finds outside of code, and leave out comments."""
    if "<" not in text:
        return text
    lines, tokens = _parse(text, parser)
    out: list[str | None] = [_LINE_TAG.sub(r"\1&lt;", line) for line in lines]  # right for definitions of links
    for before, token in pairwise([Token("", "", 0), *tokens]):
        if token.map is None or token.type not in ("html_block", "tr_open", "inline", "fence", "code_block"):
            continue
        start, end = token.map
        block = "\n".join(lines[start:end])
        if token.type == "html_block":
            block = _COMMENT.sub(lambda found: "" if found[1] is None else found[0], block)
        elif token.type == "tr_open":
            block = "|".join(map(_spans_as_text, _CELL_END.split(block)))
        elif token.type == "inline":
            if before.tag in ("th", "td"):
                continue
            block = _LINE_TAG.sub(r"\1&lt;", _spans_as_text(block))
        out[start:end] = [block] + [None] * (end - start - 1)
    return "\n".join(line for line in out if line is not None)


def _spans_as_text(text: str) -> str:
    """Return the text of one block with its tags escaped and its comments left out."""
    replaced: list[tuple[int, int, str]] = []
    _SPANS.parseInline(text, {"replaced": replaced, "last comment end": text.rfind("-->")})
    pieces, at = [], 0
    for start, end, new in replaced:
        pieces += [text[at:start], new]
        at = end
    return "".join([*pieces, text[at:]])
