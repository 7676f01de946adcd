"""What a terminal is shown: text of any origin, and no control code."""

import json
import shutil

from gpt2lab.cli.terminal import printable, table

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\u202eb\rc\x9b31m"


def test_control_codes_become_question_marks_and_lines_stay():
    assert printable(HOSTILE) == "a?]0;owned??[2J?b?c?31m"
    assert printable("é日\tx\ny") == "é日\tx\ny"


def test_columns_are_as_wide_as_their_longest_text():
    lines = list(table(("no.", "name"), [("1", "a"), ("22222", "日本"), ("3", "e\u0301x")], "rl"))
    assert lines == ["  no.  name", "    1  a", "22222  日本", "    3  e\u0301x"]
    lines = list(table(("name", "n"), [("日本x", "1"), ("e\u0301", "2")], "lr"))
    assert lines == ["name   n", "日本x  1", "e\u0301      2"]


def test_a_cell_is_one_line_of_at_most_60_characters():
    [_, line] = table(("name", "date"), [("x" * 5000 + "\n" + HOSTILE, "a\nb\x1b[0m")], "ll")
    assert line == "x" * 59 + "…  a b?[0m"


def test_no_command_lets_a_control_code_of_an_archive_through(tmp_path, command):
    path = tmp_path / "00001-first"
    path.mkdir()
    summary = {"name": HOSTILE, "status": HOSTILE, "data": HOSTILE, "date": HOSTILE, "val_loss": 1.5}
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "README.md").write_text(f"# {HOSTILE}\n\n{HOSTILE}\n")
    (path / "provenance.json").write_text(json.dumps({"run_id": HOSTILE}))
    (path / "config.yaml").write_text(json.dumps({"name": HOSTILE, "seed": HOSTILE}))
    shutil.copytree(path, tmp_path / "00002-second")
    root = ("--root", str(tmp_path))
    shown = [
        command("list", *root),
        command("list", "--json", *root),
        command("show", "1", *root),
        command("show", "1", "--json", *root),
        command("show", HOSTILE, *root, expect=5),
        command("show", f"{HOSTILE}x", *root, expect=5),
        command("list", "--where", f"slug='{HOSTILE}'", *root),
        command("list", "--where", f'"{HOSTILE}" < 3', *root, expect=2),
        command("sql", "SELECT * FROM experiments", *root),
        command("sql", f'SELECT "{HOSTILE}"', *root, expect=2),
        command("compare", "1", "2", *root, expect=5),
        command("report", "1", *root, expect=5),
        command("verify", *root, expect=5),
        command("reproduce", "1", *root, expect=5),
    ]
    for output in shown:
        assert not {char for char in "".join(output) if char != "\n" and not char.isprintable()}
