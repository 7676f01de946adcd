"""Text of any origin stays text; a person's Markdown stays Markdown. A real parser is the judge."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from gpt2lab.report import markdown

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

# Whatever Markdown, HTML or a terminal might take for a command.
PIECES = st.sampled_from([*"\\`*_[]<>|~$#&;!()-+=.:\"'/ ax1\n\t\r", "```", "~~~", "<!--", "-->", "</td>", "<b>", "---"])
MANY = 400
HOSTILE = st.lists(PIECES, max_size=20).map("".join)


def flatten(tokens: list[Token]) -> list[Token]:
    return [part for token in tokens for part in (token, *flatten(token.children or []))]


def types(text: str) -> list[str]:
    return [token.type for token in flatten(PARSER.parse(text))]


def shown(text: str) -> str:
    return "".join(token.content for token in flatten(PARSER.parse(text)) if token.type in ("text", "text_special"))


@given(HOSTILE)
@settings(max_examples=MANY)
@example("*a* _b_ `c` [d](e) <b> &lt; | ~~f~~ $g$ # \\")
@example("1. one")
@example("- one")
@example("---")
def test_escaped_text_reads_as_itself_in_a_line_a_quotation_and_a_cell(text: str) -> None:
    expected = markdown.one_line(text)
    escaped = markdown.escape(text)
    if expected:
        assert shown(escaped) == expected and set(types(escaped)) <= {
            "paragraph_open",
            "inline",
            "text",
            "text_special",
            "paragraph_close",
        }
        assert types("> " + escaped)[:2] == ["blockquote_open", "paragraph_open"]
        assert shown(f"x **{escaped}**.") in (f"x {expected}.", f"x **{expected}**.")
    table = f"| a | b |\n| --- | --- |\n{markdown.table_row([text, 'end'])}\n"
    cells = [token.content for token in PARSER.parse(table) if token.type == "inline"]
    assert len(cells) == 4 and cells[3] == "end"


@given(HOSTILE)
@settings(max_examples=MANY)
@example("`")
@example("a``b`")
@example("a|b")
def test_inline_code_shows_its_text_also_in_a_cell(text: str) -> None:
    expected = markdown.one_line(text)
    row = markdown.table_row([markdown.code(text), "end"])
    tokens = flatten(PARSER.parse(f"| a | b |\n| --- | --- |\n{row}\n"))
    found = [token.content for token in tokens if token.type == "code_inline"]
    assert found == ([expected] if expected else [])
    assert tokens[-4].content == "end" or any(token.content == "end" for token in tokens)


@given(HOSTILE)
@settings(max_examples=MANY)
@example("```\n# out\n````")
@example("\r```\r# out")
def test_nothing_escapes_from_a_fence(text: str) -> None:
    tokens = PARSER.parse(markdown.fence(text) + "\n\nafter\n")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[0].content.rstrip("\n") == text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


@pytest.mark.parametrize("text", ["a\u202eb", "a\u200bb", "\ufeffab"])
def test_characters_that_reorder_or_hide_text_are_dropped(text: str) -> None:
    assert markdown.escape(text) == "ab"


def test_control_characters_are_shown_as_pictures() -> None:
    assert markdown.escape("a\x1b[31mb\x00") == "a␛\\[31mb␀"
    assert "\x1b" not in markdown.fence("\x1b[31m")
