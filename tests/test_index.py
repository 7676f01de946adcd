import json
import multiprocessing
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from gpt2lab.archive.index import _count, write_index

SUMMARY = {
    "name": "first light",
    "status": "finished",
    "hypothesis": "below the unigram entropy",
    "data": "pydocs",
    "val_loss": 2.34567,
    "val_accuracy": 0.4567,
    "date": "2026-01-02T10:00:00.000Z",
    "n_params": 858_112,
    "tokens": 8_192_000,
}


def make_experiment(root: Path, directory: str, **changes) -> Path:
    path = root / directory
    path.mkdir(parents=True)
    for part, content in (("summary", {**SUMMARY, **changes}), ("provenance", {}), ("status", {})):
        (path / f"{part}.json").write_text(json.dumps(content))
    return path


def read_cells(root: Path) -> list[list[str]]:
    rows = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("| [")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def render(root: Path) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render((root / "README.md").read_text())


def test_every_experiment_is_a_row_newest_first(tmp_path):
    make_experiment(tmp_path, "00001-first-light")
    make_experiment(tmp_path, "00012-banded", name="banded", val_loss=2.5, val_accuracy=None, hypothesis=None)
    (tmp_path / ".staging-dead").mkdir()
    (tmp_path / "drafts").mkdir()
    assert write_index(tmp_path) == tmp_path / "README.md"
    later, first = read_cells(tmp_path)
    assert first == [
        "[00001](00001-first-light/README.md)",
        "first light",
        "finished",
        "pydocs",
        "858 k",
        "8.19 M",
        "2.346",
        "45.7%",
        "2026-01-02",
        "below the unigram entropy",
    ]
    assert later[:2] == ["[00012](00012-banded/README.md)", "banded"] and later[7] == ""


def test_the_page_says_what_writes_it(tmp_path):
    write_index(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "Generated" in page and "gpt2lab snapshot" in page and "none yet" in page


def test_the_same_experiments_give_the_same_bytes(tmp_path):
    for number in (3, 1, 2):
        make_experiment(tmp_path, f"{number:05d}-x")
    first = write_index(tmp_path).read_bytes()
    assert write_index(tmp_path).read_bytes() == first


def test_hostile_text_stays_text_in_its_cell(tmp_path):
    hostile = "a | b [x](http://e.com) <script>alert(1)</script> **bold** `code` ![i](y)\n\n# head &amp; \\| <b"
    make_experiment(tmp_path, "00001-x", name=hostile, hypothesis=hostile, status="<img src=x>", data="|", date="<a>")
    write_index(tmp_path)
    page = render(tmp_path)
    assert page.count("<tr>") == 2 and page.count("<td") == 10
    assert page.count("<a ") == 1 and page.count("<h1>") == 1
    for tag in ("<script", "<img", "<strong>", "<code>alert", "<b>", "<em>"):
        assert tag not in page
    # `*head*` and the rest are shown as they were typed
    assert "a | b [x](http://e.com) &lt;script&gt;alert(1)&lt;/script&gt; **bold** `code`" in page


def test_long_text_is_cut(tmp_path):
    make_experiment(tmp_path, "00001-x", name="x" * 500, hypothesis="half a pair \ud800")
    write_index(tmp_path)
    (row,) = read_cells(tmp_path)
    assert (row[1], row[9]) == ("x" * 160 + "…", "half a pair")


def test_a_damaged_experiment_keeps_its_row(tmp_path):
    path = make_experiment(tmp_path, "00001-first-light")
    (path / "summary.json").write_text("{")
    write_index(tmp_path)
    (row,) = read_cells(tmp_path)
    assert row[:3] == ["[00001](00001-first-light/README.md)", "first-light", "damaged"]


def test_values_of_a_wrong_type_do_not_break_the_page(tmp_path):
    make_experiment(tmp_path, "00001-x", val_loss="2.3", n_params=True, tokens=[], val_accuracy=float("nan"), date=7)
    write_index(tmp_path)
    (row,) = read_cells(tmp_path)
    assert row[4:9] == ["", "", "", "", "7"]


@pytest.mark.parametrize("key", ["val_loss", "val_accuracy", "n_params", "n_params_active", "tokens"])
@pytest.mark.parametrize("value", [True, float("inf")])
def test_a_value_that_is_no_number_is_left_blank_and_hides_no_other_experiment(tmp_path, command, key, value):
    make_experiment(tmp_path, "00001-sound")
    make_experiment(tmp_path, "00002-odd", **{key: value})
    write_index(tmp_path)
    assert [row[0][:7] for row in read_cells(tmp_path)] == ["[00002]", "[00001]"]
    out, _ = command("list", "--sort", "val_loss", "--root", str(tmp_path))
    assert sorted(line[:5] for line in out.splitlines()[1:]) == ["00001", "00002"]
    assert command("list", "--where", "tokens>0", "--root", str(tmp_path))[0].count("00001") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (815, "815"),
        (999, "999"),
        (1000, "1.00 k"),
        (9_996, "10.0 k"),
        (99_960, "100 k"),
        (999_499, "999 k"),
        (999_950, "1.00 M"),
        (124_439_808, "124 M"),
        (1.5e9, "1.50 G"),
    ],
)
def test_counts_have_three_digits_and_a_unit(value, text):
    assert _count(value) == text


def test_processes_that_write_at_once_leave_a_whole_page(tmp_path):
    for number in range(1, 30):
        make_experiment(tmp_path, f"{number:05d}-x")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(write_index, [tmp_path] * 12)
    assert len(read_cells(tmp_path)) == 29
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"README.md", ".lock"}
