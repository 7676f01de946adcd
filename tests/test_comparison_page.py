"""README.md of a sweep: complete, stable, honest about what is missing, and not to be broken by any text in it."""

import json
import math
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweep_records
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from run_records import CONFIG, PROVENANCE, STATUS

from gpt2lab.errors import ArchiveError
from gpt2lab.record.sweep import PLAN, Sweep, read_sweep, write_sweep
from gpt2lab.report import write_report
from gpt2lab.report.comparison.arms import read_run
from gpt2lab.report.comparison.compare import compare_runs
from gpt2lab.report.comparison_page.experiments import write_comparison

PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")
SECTIONS = ["Question and hypothesis", "Method", "Results", "Analysis", "Run it again", "Provenance"]
HOSTILE = "x`|`\n# Fake\n\n| a |\n|---|\n```\n</td><script>alert(1)</script> <!-- [l](u) ![i](u) $e$ **b** \\"


def report(sweep: Path, title: str = "Grid") -> str:
    write_report(sweep, title)
    return (sweep / "README.md").read_text(encoding="utf-8")


def summary(sweep: Path) -> dict[str, Any]:
    return json.loads((sweep / "summary.json").read_text())


def parse(page: str) -> list[Token]:
    return [part for token in PARSER.parse(page) for part in (token, *(token.children or []))]


def headings(page: str) -> list[str]:
    tokens = PARSER.parse(page)
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open" and token.tag == "h2"]


def section(page: str, name: str) -> str:
    return page.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]


def row(text: str, *first: str) -> list[str]:
    """The cells of the first table row that begins with the cells `first`, bold or not."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and [cell.strip("*") for cell in cells[: len(first)]] == list(first):
            return [cell.replace("\u00a0", " ") for cell in cells]
    raise AssertionError(f"no row {first}")


def change(sweep: Path, **fields: Any) -> None:
    """Write fields of the plan anew."""
    plan = json.loads((sweep / PLAN).read_text())
    (sweep / PLAN).write_text(json.dumps(plan | fields))


def keep_jobs(sweep: Path, *numbers: int) -> Path:
    """Leave only some jobs in the plan."""
    found = read_sweep(sweep)
    fields = {name: getattr(found, name) for name in Sweep.__dataclass_fields__ if name != "jobs"}
    write_sweep(Sweep(jobs=tuple(found.jobs[number] for number in numbers), **fields))
    return sweep


def archive_files(sweep: Path, *, notes: str, hypothesis: str | None = "As archived.") -> None:
    """The record of its own that an archived sweep has."""
    (sweep / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"name": "x", "hypothesis": hypothesis}))
    (sweep / "provenance.json").write_text(json.dumps(PROVENANCE))
    (sweep / "status.json").write_text(json.dumps(STATUS))
    (sweep / "notes.md").write_text(notes)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sweeps")
    return {
        "banded": sweep_records.write_banded_sweep(folder / "banded"),
        "grokking": sweep_records.write_grokking_sweep(folder / "grokking"),
    }


@pytest.fixture
def banded(tmp_path: Path, written) -> Path:
    return shutil.copytree(written["banded"], tmp_path / "banded")


@pytest.fixture
def grokking(tmp_path: Path, written) -> Path:
    return shutil.copytree(written["grokking"], tmp_path / "grokking")


def check_whole(sweep: Path, page: str) -> None:
    tokens = parse(page)
    for name in headings(page):
        assert section(page, name).strip(), f"{name} is empty"
    assert not re.search(r"\bNone\b|\bnan\b(?! at step)|\{\{|\n\n\n", page)
    for token in tokens:
        target = token.attrs.get("src") or token.attrs.get("href")
        assert target is None or str(target) == "#notes" or (sweep / str(target)).exists(), f"{target} is missing"
        assert token.type != "image" or len(token.content) > 20
    # Every table is one to the parser too: no row of it ended up as text.
    assert not [token.content for token in tokens if token.type == "inline" and token.content.startswith("|")]


def test_a_finished_sweep_has_every_section_and_figure(banded: Path) -> None:
    page = report(banded)
    assert headings(page) == SECTIONS
    check_whole(banded, page)
    files = {path.name for path in (banded / "figures").iterdir()}
    assert files == {"differences.svg", "grid.svg", "curves.svg", "gap.svg"}
    assert "**finished** · 21 jobs: 21 finished" in page and "Not finished" not in page


def test_the_main_table_has_density_seeds_mean_difference_and_verdict(banded: Path) -> None:
    page = report(banded)
    results = section(page, "Results")
    base, both = row(results, "0", "0"), row(results, "256", "256")
    arms = {arm["label"]: arm for arm in summary(banded)["arms"]}
    assert base[2:5] == ["baseline", "100 % / 100 %", "3"] and base[-2:] == ["–", "–"]
    assert both[2:4] == ["**worse**", "43.90 % / 43.90 %"]
    mean, found = arms["fc1_band=256 fc2_band=256"]["mean"], arms["fc1_band=0 fc2_band=0"]["mean"]
    assert both[5].startswith(f"{mean:.4f} ± ")
    assert both[7].startswith(f"{mean - found:+.4f} (")
    # By hand: the fixture lets both bands of 256 end 2 x 0.02 above dense, less what is left of the way down to it.
    assert math.isclose(mean - found, 0.04 * (1 - math.exp(-1000 / 120)), abs_tol=1e-9)


def test_unfinished_jobs_are_counted_and_named_with_their_reason(grokking: Path) -> None:
    page = report(grokking)
    check_whole(grokking, page)
    assert "**partial** · 18 jobs: 15 finished, 1 diverged, 1 interrupted, 1 not started" in page
    results = section(page, "Results")
    assert row(results, "2")[2:] == ["diverged", "80", "loss nan at step 80"]
    assert row(results, "7")[2:] == ["interrupted", "400", "stopped by SIGINT"]
    assert row(results, "17")[2:] == ["not started", "–", ""]
    assert row(results, "1", "0.5")[3] == "2 of 3"
    assert "- weight_decay=0 train_fraction=0.3: no run with seed 3" in page


def test_grokking_has_its_table_bounds_and_both_splits(grokking: Path) -> None:
    page = report(grokking)
    results = section(page, "Results")
    never = row(results.split("### From memorising to generalising")[1], "0", "0.5")
    assert never[2] == "0 of 3" and never[4] == "&gt; 2,000" and never[-1] == "3 memorised"
    files = {path.name for path in (grokking / "figures").iterdir()}
    assert files == {"differences.svg", "steps.svg", "accuracy.svg", "loss.svg"}
    assert "random guess over the vocabulary 4.2047" in results
    assert "Of 16 runs that ended, 9 generalised" in page and "of 16 runs that ended, 9 generalised." in page


def test_a_key_that_follows_a_factor_is_named_beside_it(banded: Path) -> None:
    plan = json.loads((banded / PLAN).read_text())
    for job in plan["jobs"]:
        del job["values"]["fc2_band"]
    change(banded, jobs=plan["jobs"], varies=["fc1_band", "seed"])
    keep_jobs(banded, 0, 1, 2, 9, 10, 11, 18, 19, 20)  # dense, both 128, both 256
    method = section(report(banded), "Method")
    assert row(method, "fc1_band")[1] == row(method, "fc2_band (follows)")[1] == "0, 128, 256"
    assert row(method, "seed")[1] == "1, 2, 3"
    figure = re.search(
        r"!\[Validation loss by fc1_band.*? dense: 1\.8294, (\S+) µs per token; .*factor\.svg", report(banded)
    )
    fast = read_run(banded / "runs" / "0-fc1_band=0-fc2_band=0-seed=1", "x").inputs.curve("tokens_per_s").values
    assert figure and float(figure[1]) == pytest.approx(1e6 / float(np.median(fast)), rel=0.02)
    path = banded / "runs" / "20-fc1_band=256-fc2_band=256-seed=3" / "provenance.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"platform": found["platform"] | {"cpu": "another"}}))
    assert "µs per token" not in report(banded) and "No times: not timed against each other" in report(banded)


def test_writing_twice_gives_the_same_bytes_and_old_figures_go(grokking: Path) -> None:
    report(grokking)
    first = {path: path.read_bytes() for path in grokking.rglob("*") if path.is_file()}
    (grokking / "figures" / "curves.svg").write_text("of an earlier version")
    report(grokking)
    assert {path: path.read_bytes() for path in grokking.rglob("*") if path.is_file()} == first


@pytest.mark.slow
def test_the_summary_has_the_keys_of_a_run_where_all_runs_agree(banded: Path, grokking: Path) -> None:
    report(banded), report(grokking)
    found = summary(banded)
    assert (found["kind"], found["status"], found["reason"]) == ("sweep", "finished", None)
    assert found["jobs"] == {"finished": 21} and found["varies"] == ["fc1_band", "fc2_band", "seed"]
    assert found["data"] == "pydocs" and found["n_params"] == 859_136
    assert found["seed"] is None and found["val_loss"] is None  # they differ
    assert found["tokens"] == 21 * 4_096_000 and math.isclose(found["training_s"], 21 * 61.8)
    assert [arm["baseline"] for arm in found["arms"]] == [True] + [False] * 6
    partial = summary(grokking)
    assert partial["status"] == "partial" and partial["reason"].startswith("15 of 18 jobs finished")
    assert {finding["topic"] for finding in partial["findings"]} >= {"comparison", "generalisation", "jobs"}


def test_the_notes_and_the_changed_hypothesis_of_an_archived_sweep_are_taken_over(banded: Path) -> None:
    archive_files(banded, notes="## Question\n\nHow *much*?\n\n## Conclusion\n\n")
    page = report(banded)
    assert "How *much*?" in section(page, "Question and hypothesis") and "> As archived." in page
    assert "the author has not written one yet" in page and "Notes" not in headings(page)
    archive_files(banded, notes="## Conclusion\n\nIt **costs**.\n", hypothesis=None)
    page = report(banded)
    assert "Conclusion: see [Notes](#notes)" in page and "It **costs**." in section(page, "Notes")
    assert "No hypothesis was written down before this sweep." in page


def test_one_seed_claims_nothing(banded: Path) -> None:
    page = report(keep_jobs(banded, *range(0, 21, 3)))
    check_whole(banded, page)
    assert "All 6 other arms are not distinguishable from the baseline" in page
    assert "Noise floor unknown" in page and "**worse**" not in page and "**better**" not in page


def test_one_arm_is_a_page_without_differences(banded: Path) -> None:
    page = report(keep_jobs(banded, 0, 1, 2))
    check_whole(banded, page)
    assert row(section(page, "Results"), "0", "0")[2] == "3"
    assert "Verdict" not in section(page, "Results")
    assert not (banded / "figures" / "differences.svg").exists()


def test_a_single_job_is_a_page(banded: Path) -> None:
    page = report(keep_jobs(banded, 0))
    check_whole(banded, page)
    assert page.count("baseline") == page.lower().count("no baseline to compare with")
    assert "Tokens/s" in section(page, "Cost")


def test_when_every_job_failed_the_page_says_so_and_has_no_table_of_results(banded: Path) -> None:
    for job in read_sweep(keep_jobs(banded, 0, 3)).jobs:
        folder = banded / job.folder
        shutil.rmtree(folder)
        folder.mkdir()
        status = STATUS | {"state": "failed", "reason": "no such file", "exit_code": 3}
        (folder / "status.json").write_text(json.dumps(status))
    page = report(banded)
    check_whole(banded, page)
    assert "2 jobs: 2 failed" in page and "mean ± std" not in page
    assert row(section(page, "Results"), "3")[2:] == ["failed", "–", "no such file"]
    assert list((banded / "figures").iterdir()) == []
    assert summary(banded)["arms"][0]["mean"] is None


def test_a_sweep_without_any_validation_is_a_page(banded: Path) -> None:
    keep_jobs(banded, 0, 1, 3, 4)
    for path in banded.glob("runs/*/metrics.csv"):
        header, *lines = path.read_text().splitlines()
        blank = [n for n, name in enumerate(header.split(",")) if name.startswith(("val_", "test_"))]
        rows = [["" if n in blank else cell for n, cell in enumerate(line.split(","))] for line in lines]
        path.write_text("\n".join([header, *(",".join(cells) for cells in rows)]) + "\n")
    page = report(banded)
    check_whole(banded, page)
    assert "Nothing was compared" in page


@pytest.mark.slow
def test_sixty_arms_are_one_page(tmp_path: Path, banded: Path) -> None:
    widths = tuple(range(16, 336, 16))  # 20 widths give 61 arms
    sweep = sweep_records.write_banded_sweep(tmp_path / "many", widths=widths)
    page = report(keep_jobs(sweep, *range(0, 3 * 60)))
    check_whole(sweep, page)
    assert page.count("| **worse** |") + page.count("| not distinguishable |") == 59
    assert "and the table has" in page or "the table has" in page
    assert max(path.stat().st_size for path in (sweep / "figures").iterdir()) < 1_000_000


def test_hostile_text_anywhere_leaves_the_structure_of_the_page_as_it_was(tmp_path: Path, written) -> None:
    def page_with(text: str, folder: str) -> str:
        sweep = shutil.copytree(written["grokking"], tmp_path / folder)
        plan = json.loads((sweep / PLAN).read_text())
        for job in plan["jobs"]:
            job["values"] = {
                text: text if job["values"]["optim.weight_decay"] else "other",
                **{key: value for key, value in job["values"].items() if key != "optim.weight_decay"},
            }
        varies = [text, *plan["varies"][1:]]
        command = ["python", text]
        change(sweep, jobs=plan["jobs"], varies=varies, hypothesis=text, tags=[text], command=command, name=text)
        keep_jobs(sweep, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
        status = json.loads((sweep / plan["jobs"][2]["folder"] / "status.json").read_text())
        (sweep / plan["jobs"][2]["folder"] / "status.json").write_text(json.dumps(status | {"reason": text}))
        archive_files(sweep, notes=f"## Seen\n\n{text}", hypothesis=text)
        return report(sweep, text)

    plain, hostile = (
        [token for token in parse(page_with(text, folder)) if token.type not in ("text", "text_special", "inline")]
        for text, folder in (("plain", "a"), (HOSTILE, "b"))
    )
    assert [token.content for token in hostile if token.type.startswith("html")] == ["<sub>", "</sub>"]
    ours = [
        [token.tag for token in page if token.level == 0 and token.type == "heading_open"] for page in (plain, hostile)
    ]
    assert ours[0].count("h2") == ours[1].count("h2") and ours[0].count("h1") == ours[1].count("h1") == 1
    tables = [sum(token.type == "tr_open" for token in page) for page in (plain, hostile)]
    assert tables[1] - tables[0] in (0, 1)  # the person's own table in notes.md, a head without rows


def test_a_damaged_run_is_named(banded: Path) -> None:
    path = next(banded.glob("runs/4-*/metrics.csv"))
    path.write_text(path.read_text() + "1,2\n")
    with pytest.raises(ArchiveError, match=r"runs/4-.*metrics\.csv, line 103"):
        write_report(banded, "x")


def compared(sweep: Path, folder: Path, *numbers: int) -> str:
    runs = [read_run(sweep / read_sweep(sweep).jobs[number].folder) for number in numbers]
    found = compare_runs(runs, vary=("fc1_band", "fc2_band", "model"))
    page = write_comparison(found, runs, folder).read_text(encoding="utf-8")
    check_whole(folder, page)
    return page


def test_a_comparison_of_experiments_is_a_page_with_figures(banded: Path, tmp_path: Path) -> None:
    page = compared(banded, tmp_path / "page", 0, 1, 2, 18, 19, 20)
    assert "In short: the one other arm is worse than the baseline." in page
    assert "| 43.90 % / 43.90 % |" in page and "**worse**" in page
    assert {path.name for path in (tmp_path / "page" / "figures").iterdir()} == {
        "differences.svg",
        "curves.svg",
        "gap.svg",
    }
    assert compared(banded, tmp_path / "page", 0, 1, 2, 18, 19, 20) == page


def test_a_comparison_is_never_written_over_an_experiment_or_somebodys_page(banded: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"banded: it holds a record of its own"):
        compared(banded, banded, 0, 18)
    with pytest.raises(ArchiveError, match=r"0-fc1_band=0-fc2_band=0-seed=1: it holds a record"):
        compared(banded, banded / read_sweep(banded).jobs[0].folder, 0, 18)
    (tmp_path / "README.md").write_text("My own words.\n")
    with pytest.raises(ArchiveError, match=r"README\.md is not a page that gpt2lab compare wrote"):
        compared(banded, tmp_path, 0, 18)
    assert (tmp_path / "README.md").read_text() == "My own words.\n"
    with pytest.raises(ArchiveError, match=r"figures: it lies in .*banded, which is a record of its own"):
        compared(banded, banded / "figures", 0, 18)
    own = tmp_path / "own" / "figures" / "gap.svg"
    own.parent.mkdir(parents=True)
    own.write_text("a person's")
    with pytest.raises(ArchiveError, match=r"own: it is not empty and holds no page of gpt2lab compare"):
        compared(banded, tmp_path / "own", 0, 18)
    assert own.read_text() == "a person's"
