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


@given(HOSTILE)
@settings(max_examples=MANY)
@example("```\n<b>")
@example("- ~~~\n```\n<b>\n")
@example("`a\nb` <b> `c`")
@example("\\`<b>`")
@example("<!-- open\n\nrest")
@example("Title\n===")
@example("*\\\n-")
@example("``` `\n<b>")
@example(" ```")
@example(" ```\n```\n<b>")
@example("* * *\n  ```")
@example("x\n2. y\n   ```")
@example("- a\n\nb\n  ```")
def test_notes_hold_no_html_no_high_heading_and_do_not_swallow_what_follows(text: str) -> None:
    merged = markdown.notes(text)
    tokens = PARSER.parse(f"## Notes\n\n{merged}\n\n## Samples\n\nafter\n")
    assert not {"html_block", "html_inline"} & {token.type for token in flatten(tokens)}
    top = [token for token in tokens if token.type == "heading_open" and token.level == 0]
    assert [token.tag for token in (top[0], top[-1])] == ["h2", "h2"]
    assert all(token.tag not in ("h1", "h2") for token in top[1:-1])
    assert [token.type for token in tokens[-6:]] == [
        "heading_open",
        "inline",
        "heading_close",
        "paragraph_open",
        "inline",
        "paragraph_close",
    ]


def test_a_persons_markdown_comes_through_unchanged() -> None:
    text = (
        "### Seen\n\n- **bold** and `a < b`\n- see <https://example.org>\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n"
        "```python\nif a<b: print('<b>')\n```\n\nA span `<tag>` stays."
    )
    assert markdown.notes(text) == text


def test_raw_html_in_notes_becomes_text() -> None:
    assert markdown.notes("x <b>y</b> <script>") == "x &lt;b>y&lt;/b> &lt;script>"


def test_headings_go_below_those_of_the_page_and_keep_their_order() -> None:
    assert markdown.notes("# A\n\nx\n\n## B\n\ny\n\nC\n---\n\nz") == "### A\n\nx\n\n#### B\n\ny\n\n#### C\n\nz"


def test_headings_and_comments_without_text_are_left_out() -> None:
    template = (
        "## Question\n\n<!-- what did you ask? -->\n\n## Seen\n\nThis.\n\n## Next\n\n### Soon\n\n<!-- plans -->\n"
    )
    assert markdown.notes(template) == "### Seen\n\nThis."
    assert markdown.notes("## Question\n\n<!-- x\ny -->\n") == ""


def test_a_parent_heading_stays_for_the_text_below_its_child() -> None:
    assert markdown.notes("## A\n\n### B\n\ntext") == "### A\n\n#### B\n\ntext"


def test_a_hash_in_code_is_no_heading_and_an_open_block_is_closed() -> None:
    assert markdown.notes("```\n# not a heading\n") == "```\n# not a heading\n\n```"


def test_code_in_a_list_item_stays_there() -> None:
    text = "- step:\n\n  ```sh\n  # comment\n  make\n  ```\n- next"
    assert markdown.notes(text) == text


def test_a_section_is_taken_with_what_is_nested_in_it() -> None:
    text = "intro\n## question\nwhy\n### detail\nbecause\n## Next\nmore"
    assert markdown.take_section(text, "Question") == ("why\n### detail\nbecause", "intro\n## Next\nmore")
    assert markdown.take_section("```\n# Question\n```", "Question")[0] == ""
    assert markdown.take_section(text, "Absent") == ("", text)


@pytest.mark.parametrize("text", ["a\u202eb", "a\u200bb", "\ufeffab"])
def test_characters_that_reorder_or_hide_text_are_dropped(text: str) -> None:
    assert markdown.escape(text) == "ab"


def test_control_characters_are_shown_as_pictures() -> None:
    assert markdown.escape("a\x1b[31mb\x00") == "a␛\\[31mb␀"
    assert "\x1b" not in markdown.fence("\x1b[31m")


def test_a_comment_that_is_never_closed_stays_and_closed_ones_go():
    assert markdown.notes("a<!-- b --> c <!----> d <!-- e --> -->\n<!-- open") == "a c  d  -->\n&lt;!-- open"


def test_a_fence_far_below_the_beginning_of_its_item_is_moved_to_the_edge():
    for lines, indent in ((50, "  "), (200, "")):
        text = markdown.notes("- item\n" + "  more\n" * lines + "  ```\n  <b>\n  ```\n")
        assert f"\n{indent}```\n" in text
