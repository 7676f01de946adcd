"""README.md of a run: complete, stable, honest about what is missing, and not to be broken by any text in it."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import run_records
from markdown_it import MarkdownIt
from markdown_it.token import Token

from gpt2lab.archive.store import NOTES
from gpt2lab.errors import ArchiveError
from gpt2lab.report import write_report
from gpt2lab.report.markdown import one_line
from gpt2lab.report.results import MAX_CHECKPOINTS

PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")
SECTIONS = [
    "Question and hypothesis",
    "Method",
    "Results",
    "Analysis",
    "Notes",
    "Samples",
    "Run it again",
    "Provenance",
]


def report(run: Path, title: str = "First light") -> str:
    write_report(run, title)
    return (run / "README.md").read_text(encoding="utf-8")


def parse(page: str) -> list[Token]:
    return [part for token in PARSER.parse(page) for part in (token, *(token.children or []))]


def headings(page: str, tag: str = "h2") -> list[str]:
    tokens = PARSER.parse(page)
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open" and token.tag == tag]


def section(page: str, name: str) -> str:
    return page.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]


def cells(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with `first`."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.fixture
def text_run(tmp_path: Path) -> Path:
    return run_records.write_text_run(tmp_path / "run")


def test_a_finished_run_has_every_section_in_order(text_run: Path) -> None:
    page = report(text_run)
    assert headings(page, "h1") == ["First light"]
    assert headings(page) == SECTIONS


@pytest.mark.parametrize(
    "write",
    [
        run_records.write_text_run,
        run_records.write_banded_run,
        run_records.write_grokking_run,
        run_records.write_interrupted_run,
        run_records.write_diverged_run,
    ],
)
def test_every_page_is_whole(tmp_path: Path, write) -> None:
    run = write(tmp_path / "run")
    page = report(run)
    tokens = parse(page)
    for name in headings(page):
        assert section(page, name).strip(), f"{name} is empty"
    assert not re.search(r"\bNone\b|\bnan\b(?! at step)|\{\{|\n\n\n", page)
    for token in tokens:
        target = token.attrs.get("src") or token.attrs.get("href")
        assert target is None or (run / str(target)).is_file(), f"{target} is linked and missing"
        assert token.type != "image" or len(token.content) > 20
    # Every table is one to the parser too: no row of it ended up as text.
    assert not [token.content for token in tokens if token.type == "inline" and token.content.startswith("|")]


def test_writing_twice_gives_the_same_bytes(text_run: Path) -> None:
    report(text_run)
    first = {path: path.read_bytes() for path in text_run.rglob("*") if path.is_file()}
    report(text_run)
    assert {path: path.read_bytes() for path in text_run.rglob("*") if path.is_file()} == first


def test_two_copies_in_differently_named_directories_give_the_same_bytes(tmp_path: Path) -> None:
    pages = [report(run_records.write_grokking_run(tmp_path / name)) for name in (".staging-1", "00001-run")]
    assert pages[0] == pages[1]


def test_the_results_are_those_of_the_summary(text_run: Path) -> None:
    page = report(text_run)
    summary = json.loads((text_run / "summary.json").read_text())
    results = section(page, "Results")
    assert summary["name"] == "First light"
    assert cells(results, "Last loss (nats/token)")[1:] == [
        f"{summary['train_eval_loss']:.4f}",
        f"{summary['val_loss']:.4f}",
    ]
    best = f"{summary['best_val_loss']:.4f} (step {summary['best_val_loss_step']:,})"
    assert cells(results, "Best loss (nats/token)")[2] == best
    assert cells(results, "Bits per byte")[2] == f"{summary['bits_per_byte']:.4f}"
    assert cells(results, "Perplexity")[2] == f"{summary['perplexity']:.2f}"
    for finding in summary["findings"]:
        assert f"**{finding['verdict']}.**" in section(page, "Analysis")


def test_the_method_states_model_data_and_training_with_units(text_run: Path) -> None:
    method = section(report(text_run), "Method")
    assert cells(method, "Shape")[1] == "GPT-2: 4 layers, 4 heads, 128 channels, 512 hidden units"
    assert cells(method, "Validation split")[1] == "46,511 tokens (46,511 bytes)"
    assert cells(method, "Batch")[1] == "16 sequences × 256 tokens = 4,096 tokens per update"
    assert cells(method, "Training tokens")[1] == "4.10 million, 9.78 passes over the split"
    assert cells(method, "Hardware")[1] == "AMD EPYC 7763 (CPU), 2 threads of 2 cores"


def test_the_density_of_each_matrix_is_exact(tmp_path: Path) -> None:
    banded = {"model": {"fc1_band": 256, "fc2_band": 1024}}
    run = run_records.write_record(tmp_path / "run", run_records.text_rows(), provenance=banded)
    method = section(report(run), "Method")
    assert cells(method, "MLP, FC1")[1:] == ["512 × 128", "256", "28,768 of 65,536", "43.90 %"]
    assert cells(method, "MLP, FC2")[1:] == ["128 × 512", "dense (1,024 asked)", "65,536 of 65,536", "100 %"]
    assert "figures/bands.svg" in method


def test_the_table_of_evaluations_is_thinned_around_the_rows_that_matter(tmp_path: Path) -> None:
    run = run_records.write_grokking_run(tmp_path / "run")
    results = section(report(run), "Results")
    summary = json.loads((run / "summary.json").read_text())
    steps = [
        int(row[1].replace(",", "")) for row in re.findall(r"^(\| ([\d,]+) \|.*)$", results, re.M) for row in [row]
    ]
    assert len(steps) <= MAX_CHECKPOINTS and steps == sorted(steps)
    telling = {0, 2000, summary["steps_to_train_accuracy"], summary["steps_to_val_accuracy"]}
    assert telling <= set(steps)
    assert f"**{summary['best_val_loss']:.4f}**" in results


def test_a_short_run_shows_every_evaluation(text_run: Path) -> None:
    assert "(all 11)" in section(report(text_run), "Results")


def test_the_question_of_the_notes_stands_beside_the_hypothesis(text_run: Path) -> None:
    page = report(text_run)
    assert "Does the *smallest* model learn?" in section(page, "Question and hypothesis")
    assert "> A byte model of this size ends below 1.9 nats." in page
    assert "smallest" not in section(page, "Notes") and "It **does**." in section(page, "Notes")


def test_the_untouched_notes_of_a_new_experiment_add_no_section(tmp_path: Path) -> None:
    run = run_records.write_record(tmp_path / "run", run_records.text_rows(), notes=NOTES)
    assert "Notes" not in headings(report(run))
    (run / "notes.md").write_text(NOTES.replace("## Question\n", "## Question\n\nWhy?\n") + "\nMore.\n")
    page = report(run)
    assert section(page, "Notes").strip() == "### Next\n\nMore."
    assert section(page, "Question and hypothesis").strip().startswith("Why?\n")


def test_a_run_without_hypothesis_notes_or_samples_says_so_once(tmp_path: Path) -> None:
    page = report(run_records.write_interrupted_run(tmp_path / "run"))
    assert "No hypothesis was written down before this run." in page
    assert headings(page) == [name for name in SECTIONS if name not in ("Notes", "Samples")]
    assert "Why it ended: Ctrl-C at step 0" in page


def test_the_command_can_be_pasted_and_begins_from_the_start(tmp_path: Path) -> None:
    overrides = ["name='first light'", "sparsity=banded", "resume=runs/x", "train.stop_when=val_accuracy>=0.99"]
    run = run_records.write_record(tmp_path / "run", run_records.text_rows(), overrides=overrides)
    again = section(report(run), "Run it again")
    expected = "python -m gpt2lab.run \"name='first light'\" sparsity=banded 'train.stop_when=val_accuracy>=0.99'"
    assert f"```sh\n{expected}\n```" in again


def test_uncommitted_changes_are_said_and_the_commit_is_not_offered(tmp_path: Path) -> None:
    git = {"git": {"commit": "ab" * 20, "dirty": True, "patch": "diff", "untracked": ["new.py"]}}
    page = report(run_records.write_record(tmp_path / "run", run_records.text_rows(), provenance=git))
    assert "with uncommitted changes and 1 untracked file;" in section(page, "Provenance")
    assert "In the source that ran:" in page and "In a checkout" not in page


def test_a_long_sample_is_cut_and_linked(tmp_path: Path) -> None:
    samples = {f"{n}.txt": "x" * 5000 for n in range(5)}
    page = report(run_records.write_record(tmp_path / "run", run_records.text_rows(), samples=samples))
    assert len(section(page, "Samples")) < 4000
    assert "[0.txt](samples/0.txt), its beginning:" in page and "3.txt" not in page


HOSTILE = "x`|`\n# Fake\n\n| a |\n|---|\n```\n</td><script>alert(1)</script> <!-- [l](u) ![i](u) $e$ **b** \\"


def test_hostile_text_anywhere_leaves_the_structure_of_the_page_as_it_was(tmp_path: Path) -> None:
    def page_with(text: str, folder: str) -> str:
        run = run_records.write_record(
            tmp_path / folder,
            run_records.text_rows(),
            config={"hypothesis": text, "tags": [text], "model": {"init_from": text}, "train": {"stop_when": text}},
            provenance={
                "command": [text],
                "git": {"commit": text},
                "versions": {text: text},
                "platform": {"os": text, "cpu": text},
                "engine": {"device_name": text},
                "data": {"name": text, "files": {text: text}, "detail": {text: text}},
            },
            status={"reason": text, "tracker": text, "state": text},
            overrides=[text],
            samples={"a b)`.txt": text},
            notes=f"## Seen\n\n{text}",
        )
        return report(run, text)

    plain, hostile = (
        [token for token in parse(page_with(text, folder)) if token.type not in ("text", "text_special", "inline")]
        for text, folder in (("plain", "a"), (HOSTILE, "b"))
    )
    assert {token.type for token in hostile if token.type.startswith("html")} == {"html_inline"}  # our own <sub>
    assert [token.content for token in hostile if token.type == "html_inline"] == ["<sub>", "</sub>"]
    ours = [
        [token.tag for token in page if token.level == 0 and token.type == "heading_open"] for page in (plain, hostile)
    ]
    assert ours[0].count("h2") == ours[1].count("h2") and ours[0].count("h1") == ours[1].count("h1") == 1
    tables = [sum(token.type == "tr_open" for token in page) for page in (plain, hostile)]
    notes_table = 1  # the person's own table in notes.md, a head without rows
    assert tables[1] - tables[0] in (0, notes_table)


def test_the_title_is_shown_as_it_is(text_run: Path) -> None:
    page = report(text_run, HOSTILE)
    assert "".join(
        token.content for token in PARSER.parseInline(page.splitlines()[0][2:])[0].children or []
    ) == one_line(HOSTILE)


def test_a_report_that_cannot_be_written_is_one_line_naming_the_file(text_run: Path) -> None:
    (text_run / "README.md").mkdir()
    with pytest.raises(ArchiveError, match=r"README\.md: cannot write: is a directory") as raised:
        write_report(text_run, "run")
    assert "\n" not in str(raised.value)


WORK = {"positions": 37_632, "nodes": 9_603, "shares_prefixes": True, "last_layer_rows": 4_704, "logit_rows": 4_704}
FLOP = {"flop_per_token_dense": 2_520_000, "flop_per_token_computed": 500_000}


def method_of(directory: Path, model: dict, engine: dict | None = None) -> str:
    run = run_records.write_record(
        directory, run_records.text_rows(), provenance={"model": model}, config={"engine": engine or {}}
    )
    return section(report(run), "Method")


def test_the_work_of_a_run_is_told_in_its_method(tmp_path: Path) -> None:
    page = method_of(tmp_path / "shared", FLOP | {"work": WORK})
    assert cells(page, "Work") == [
        "Work",
        "9,603 prefixes stand for 37,632 positions, 4,704 in the last layer; in the first update 5.04 times fewer FLOP "
        "than the plain batch (all positions, dense products)",
    ]
    # As older records have it.
    cut = {"work": WORK | {"shares_prefixes": False, "nodes": 23_520, "flop_dense": 92_300, "flop_done": 46_150}}
    cut |= {"flop_per_token": 2_520_000}
    page = method_of(tmp_path / "cut", cut, {"share_prefixes": False})
    assert cells(page, "Work")[1].startswith(
        "23,520 of 37,632 positions, 4,704 in the last layer (engine.share_prefixes=false); in the first update 2.00 "
    )
    every = {"nodes": 37_632, "last_layer_rows": 37_632, "passes": 8, "trees": 0}
    flop = FLOP | {"flop_per_token_computed": FLOP["flop_per_token_dense"]}
    page = method_of(tmp_path / "whole", flop | {"work": WORK | every})
    assert cells(page, "Work")[1] == "all 37,632 positions; nothing left out of the plain batch"


def test_the_products_of_a_band_are_told_in_its_method(tmp_path: Path) -> None:
    dense = {"forward": None, "input": None, "weight": None}
    tiles = {"fc1": dict.fromkeys(dense, 128), "fc2": dense}
    wide = {"n_embd": 768, "fc1_band": 256, "fc2_band": 256, "mlp_tiles": tiles}
    wide |= {"why_dense": "blocks would not be faster"}
    page = method_of(tmp_path / "wide", wide)
    assert cells(page, "FC1")[1] == "band 256, density 8.19 %; products over 24 blocks of 128 hidden units"
    assert cells(page, "FC2")[1] == "band 256, density 8.19 %; dense products (blocks would not be faster)"
    older = {key: value for key, value in wide.items() if key != "why_dense"} | {
        "mlp_tiles": {"fc1": dense, "fc2": dense}
    }
    page = method_of(tmp_path / "older", older)
    assert cells(page, "FC1")[1] == "band 256, density 8.19 %; dense products"
    some = {"fc1": dense | {"forward": 64, "input": 128}, "fc2": dense}
    page = method_of(tmp_path / "some", wide | {"mlp_tiles": some})
    assert cells(page, "FC1")[1].endswith(
        "; forward blocks of 64, gradient of the input blocks of 128, gradient of the weight dense"
    )
    assert "| FC1 |" not in method_of(tmp_path / "whole", {"fc1_band": 0, "mlp_tiles": {"fc1": dense, "fc2": dense}})


@pytest.mark.parametrize("model", [{}, {"work": {"positions": 37_632}, "mlp_tiles": {}}], ids=["old", "of a sweep"])
def test_what_was_not_recorded_has_no_row(tmp_path: Path, model: dict) -> None:
    page = method_of(tmp_path / "run", {"fc1_band": 256} | model)
    assert "| Work |" not in page and "| FC1 |" not in page
