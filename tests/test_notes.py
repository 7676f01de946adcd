"""A person's notes stay Markdown and cannot change the page around them. A parser of the whole page is the judge."""

import pytest
from hypothesis import example, given, settings
from test_markdown import HOSTILE, MANY, PARSER, flatten

from gpt2lab.report.notes import merge_notes, take_section


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
@example("|a|b|\n|-|-|\n|`x|<b>|y`|")
@example("|a|\n|-|\n|`\\|`<b>`c`|")
@example("[a]: b 'c\n<div>\n'\n\n<div>\n# x")
@example("<div>\n```\n<b>\n\n<i>")
@example("a <!-- b\nc -->\n    <b>\n===")
@example("a\n=<!---->")
@example("|a|b|\n-<!---->")
@example("`a\n</td>`")
@example("[a]:\n<div x>\n===")
@example("<!<!-- -->-- <!-- -->")
def test_notes_hold_no_html_no_high_heading_and_do_not_swallow_what_follows(text: str) -> None:
    merged = merge_notes(text)
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
    assert merge_notes(text) == text


def test_raw_html_in_notes_becomes_text() -> None:
    assert merge_notes("x <b>y</b> <script>") == "x &lt;b>y&lt;/b> &lt;script>"


def test_headings_go_below_those_of_the_page_and_keep_their_order() -> None:
    assert merge_notes("# A\n\nx\n\n## B\n\ny\n\nC\n---\n\nz") == "### A\n\nx\n\n#### B\n\ny\n\n#### C\n\nz"


def test_headings_and_comments_without_text_are_left_out() -> None:
    template = (
        "## Question\n\n<!-- what did you ask? -->\n\n## Seen\n\nThis.\n\n## Next\n\n### Soon\n\n<!-- plans -->\n"
    )
    assert merge_notes(template) == "### Seen\n\nThis."
    assert merge_notes("## Question\n\n<!-- x\ny -->\n") == ""


def test_a_parent_heading_stays_for_the_text_below_its_child() -> None:
    assert merge_notes("## A\n\n### B\n\ntext") == "### A\n\n#### B\n\ntext"


def test_a_hash_in_code_is_no_heading_and_an_open_block_is_closed() -> None:
    assert merge_notes("```\n# not a heading\n") == "```\n# not a heading\n\n```"


def test_code_in_a_list_item_stays_there() -> None:
    text = "- step:\n\n  ```sh\n  # comment\n  make\n  ```\n- next"
    assert merge_notes(text) == text


def test_a_section_is_taken_with_what_is_nested_in_it() -> None:
    text = "intro\n## question\nwhy\n### detail\nbecause\n## Next\nmore"
    assert take_section(text, "Question") == ("why\n### detail\nbecause", "intro\n## Next\nmore")
    assert take_section("```\n# Question\n```", "Question")[0] == ""
    assert take_section(text, "Absent") == ("", text)


def test_a_comment_that_is_never_closed_stays_and_closed_ones_go():
    assert merge_notes("a<!-- b --> c <!----> d <!-- e --> -->\n<!-- open") == "a c  d  -->\n&lt;!-- open"


def test_a_comment_in_code_is_code():
    text = "```html\n<!-- a -->\n```\n\n- `<!-- b -->`"
    assert merge_notes(text) == text


@pytest.mark.parametrize("lines", [1, 200])
def test_a_fence_far_below_the_beginning_of_its_item_is_code(lines):
    text = "- item\n" + "  more\n" * lines + "  ```\n  <b>\n  ```"
    assert merge_notes(text) == text


def test_a_heading_of_two_lines_becomes_one_and_its_html_text():
    assert merge_notes("A <b>\nand B\n=====\ntext") == "### A &lt;b> and B\ntext"


def test_what_is_no_heading_stays_though_it_looks_like_one():
    text = "- # in a list\n\n> # quoted\n\n    # code\n\n#hashtag"
    assert merge_notes(text) == text


def test_definitions_of_links_are_text_below_a_heading():
    assert merge_notes("## Links\n\n[a]: https://example.org\n\n## Empty\n") == "### Links\n\n[a]: https://example.org"


def test_cells_of_a_table_keep_their_code_and_lose_their_tags():
    text = "| a | b |\n| --- | --- |\n| `x \\| <i>` | <b> |"
    assert merge_notes(text) == text.replace("<b>", "&lt;b>")


def test_an_open_fence_in_a_section_does_not_swallow_the_rest():
    section, rest = take_section("a\n\n# Notes\r\n\n```\ncode", "Notes")
    assert merge_notes(f"{section}\n\n{rest}") == "```\ncode\n```\n\na"


def test_a_section_ends_at_the_next_underlined_heading():
    assert take_section("Question\n===\nwhy\n\nNext\n===\nx", "question") == ("why\n", "Next\n===\nx")
