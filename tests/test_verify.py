"""`gpt2lab verify`: every way in which an experiment can be other than it was archived is named."""

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
from run_records import write_text_run

from gpt2lab.archive import create, read_summary
from gpt2lab.archive.manifest import refreshed, write_entries
from gpt2lab.archive.verify import verify
from gpt2lab.cli.trust import check_config
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import file_sha256
from gpt2lab.report import write_report

# Seven lines that stand for ten million values.
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join(['*' + before] * 10)}]\n" for before, after in itertools.pairwise("abcdefg")
)


@pytest.fixture(scope="module")
def sound_experiment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    run = write_text_run(folder / "run")
    (run / "model.bin").write_bytes(b"weights")
    return create(run, folder / "experiments", name="first light", hypothesis=None, write_report=write_report)


@pytest.fixture
def archived_run(sound_experiment, tmp_path) -> Path:
    return Path(shutil.copytree(sound_experiment, tmp_path / "experiments" / sound_experiment.name))


def check(directory: Path, **options):
    return verify(directory, **{"check_config": check_config, "write_report": write_report, **options})


def faults(directory: Path, **options) -> list[tuple[str, str]]:
    return [(fault.kind, fault.file) for fault in check(directory, **options).faults]


def edit_manifest(directory: Path, change) -> None:
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def forge(directory: Path, name: str, content: str) -> None:
    """Change a file together with its line in the manifest."""
    path = directory / name
    path.write_text(content)
    entry = {"sha256": file_sha256(path), "bytes": path.stat().st_size, "in_git": True}
    edit_manifest(directory, lambda manifest: manifest["files"].update({name: entry}))


def edit_summary(directory: Path, change) -> None:
    summary = json.loads((directory / "summary.json").read_text())
    change(summary)
    forge(directory, "summary.json", json.dumps(summary))


def test_an_experiment_as_it_was_archived_is_sound(archived_run):
    before = {path: path.stat().st_mtime_ns for path in archived_run.rglob("*")}
    verdict = check(archived_run, weights=True)
    assert (verdict.faults, verdict.absent, verdict.notes_edited) == ((), (), False)
    assert {path: path.stat().st_mtime_ns for path in archived_run.rglob("*")} == before


def test_one_changed_byte_in_any_file_is_found_and_named(archived_run):
    names = [path.relative_to(archived_run).as_posix() for path in archived_run.rglob("*") if path.is_file()]
    for name in sorted(set(names) - {"manifest.json", "notes.md"}):
        path = archived_run / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        found = verify(archived_run).faults
        path.write_bytes(content)
        assert [(fault.kind, fault.file) for fault in found] == [("changed", name)]
        assert "sha256" in found[0].why


def test_missing_and_extra_files_are_named(archived_run):
    (archived_run / "status.json").unlink()
    (archived_run / "samples" / "more.txt").write_text("")
    (archived_run / ".hidden").write_text("")
    expected = [("missing", "status.json"), ("extra", ".hidden"), ("extra", "samples/more.txt")]
    assert faults(archived_run) == expected


def test_absent_weights_are_said_and_a_fault_only_where_asked_for(archived_run):
    (archived_run / "model.bin").unlink()
    assert check(archived_run).absent == ("model.bin",)
    assert faults(archived_run) == []
    assert faults(archived_run, weights=True) == [("missing", "model.bin")]


def test_weights_that_are_there_are_checked(archived_run):
    (archived_run / "model.bin").write_bytes(b"other weights")
    assert faults(archived_run) == [("changed", "model.bin")]


def test_a_record_is_not_excused_as_weights_by_its_manifest(archived_run):
    edit_manifest(archived_run, lambda manifest: manifest["files"]["metrics.csv"].update(in_git=False))
    (archived_run / "metrics.csv").unlink()
    assert ("missing", "metrics.csv") in faults(archived_run)


def test_edited_notes_are_said_and_are_no_fault(archived_run):
    (archived_run / "notes.md").write_text("## Conclusion\n\nIt did.\n")
    verdict = check(archived_run)
    assert verdict.faults == () and verdict.notes_edited
    (archived_run / "README.md").write_text("another page")
    assert faults(archived_run) == [("changed", "README.md")]


def test_notes_that_the_report_took_in_are_sound_again(archived_run):
    (archived_run / "notes.md").write_text("## Conclusion\n\nIt did.\n")
    write_report(archived_run, "first light")
    write_entries(archived_run, refreshed(archived_run, archived_run))
    verdict = check(archived_run)
    assert verdict.faults == () and not verdict.notes_edited


def test_the_bad_row_of_a_damaged_metrics_file_is_named(archived_run):
    metrics = archived_run / "metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([*lines[:4], lines[4].replace(",", ",x", 1), *lines[5:]]))
    (fault,) = check(archived_run).faults
    assert (fault.kind, fault.file) == ("changed", "metrics.csv")
    assert "line 5: damaged, tokens is 'x" in fault.why
    forge(archived_run, "metrics.csv", metrics.read_text())
    (fault,) = check(archived_run).faults
    assert fault.file == "README.md" and "line 5: damaged" in fault.why


def test_a_number_that_is_changed_together_with_its_hash_no_longer_gives_the_report(archived_run):
    edit_summary(archived_run, lambda summary: summary.update(val_loss=0.1))
    forge(archived_run, "figures/loss.svg", "<svg/>")
    forge(archived_run, "figures/better.svg", "<svg/>")
    expected = [("stale", "figures/better.svg"), ("stale", "figures/loss.svg"), ("stale", "summary.json")]
    assert faults(archived_run) == expected
    assert check(archived_run).faults[-1].why.startswith("val_loss is 0.1, the record gives 1.8")


def written_by(directory: Path, **changes: str) -> None:
    """Make the report one of other report code or libraries, with another page and another figure."""
    edit_summary(
        directory, lambda summary: summary.update(written_by=summary["written_by"] | changes if changes else None)
    )
    forge(directory, "README.md", "in other words")
    forge(directory, "figures/loss.svg", "<svg/>")


@pytest.mark.parametrize(
    ("changes", "writer"),
    [
        ({}, "the report code"),  # of before reports said what wrote them
        ({"report_hash": "0" * 64}, "the report code"),
        ({"report_hash": "0" * 64, "matplotlib": "3.9.0"}, "the report code"),
        ({"matplotlib": "3.9.0"}, "matplotlib"),
        ({"matplotlib": "3.9.0", "numpy": "2.0.0"}, "matplotlib, numpy"),
    ],
)
def test_a_report_of_other_code_or_libraries_is_mentioned_and_no_fault(archived_run, command, changes, writer):
    written_by(archived_run, **changes)
    out, _ = command("verify", "--root", str(archived_run.parent))
    assert out == f"00001-first-light: ok (report written by another version of {writer})\n"
    found = json.loads(command("verify", "--json", "--root", str(archived_run.parent))[0])
    assert (found["ok"], found["report_by"]) == (True, f"another version of {writer}")


def test_other_code_that_writes_the_same_report_is_not_mentioned(archived_run):
    page, figure = ((archived_run / name).read_text() for name in ("README.md", "figures/loss.svg"))
    written_by(archived_run, report_hash="0" * 64)
    forge(archived_run, "README.md", page)
    forge(archived_run, "figures/loss.svg", figure)
    verdict = check(archived_run)
    assert (verdict.faults, verdict.report_by) == ((), None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"val_loss": 0.1}, "val_loss is 0.1, the record gives 1.8"),
        ({"val_loss": None}, "val_loss is missing, the record gives 1.8"),
        ({"val_loss": "low"}, 'val_loss is "low", the record gives 1.8'),
        ({"test_loss": 0.1}, "test_loss is 0.1, the record gives none"),
        ({"steps": 2000, "tokens": 9}, "steps is 2000, the record gives 1000, and 1 more"),
        ({"density": {"fc1": 0.25, "fc2": 1.0}}, "density.fc1 is 0.25, the record gives 1.0"),
        ({"tags": ["more"]}, "tags has 1 entries, the record gives 0"),
        ({"engine": "cuda"}, 'engine is "cuda", the record gives "torch"'),
        ({"status": "failed"}, 'status is "failed", the record gives "finished"'),
        ({"data": None, "hardware": "a card"}, 'data is missing, the record gives "pydocs", and 1 more'),
        ({"findings": []}, "findings has 0 entries, the record gives "),
    ],
)
def test_a_value_follows_from_the_record_whatever_wrote_the_report(archived_run, change, why):
    written_by(archived_run)
    edit_summary(archived_run, lambda summary: summary.update(change))
    verdict = check(archived_run)
    assert [(fault.kind, fault.file) for fault in verdict.faults] == [("stale", "summary.json")]
    assert verdict.faults[0].why.startswith(why)
    assert verdict.report_by == "another version of the report code"


@pytest.mark.parametrize("key", ["val_loss", "bits_per_byte", "findings", "density", "engine"])
def test_a_key_that_is_gone_is_a_fault_whatever_wrote_the_report(archived_run, key):
    written_by(archived_run)
    edit_summary(archived_run, lambda summary: summary.pop(key))
    (fault,) = check(archived_run).faults
    assert fault.why.startswith(f"{key} is missing, the record gives ")


def test_what_a_summary_of_other_code_may_have_more_less_or_in_other_words_is_no_fault(archived_run):
    written_by(archived_run)
    edit_summary(archived_run, lambda summary: [summary.pop(key) for key in ("flop_per_token_dense", "test_loss")])
    edit_summary(archived_run, lambda summary: summary.update(beauty=3, val_loss=summary["val_loss"] * (1 + 1e-12)))
    edit_summary(archived_run, lambda summary: summary["findings"][0].update(text="In other words."))
    assert faults(archived_run) == []


@pytest.mark.parametrize("part", ["arms", "findings"])
def test_a_forged_verdict_on_an_arm_or_in_a_finding_is_found(tmp_path, part):
    [sweep] = (Path(__file__).parent.parent / "experiments").glob("00007-*")
    copy = Path(shutil.copytree(sweep, tmp_path / sweep.name))
    edit_summary(copy, lambda summary: summary[part][0].update(verdict="better"))
    (fault,) = check(copy).faults
    assert fault.why.startswith(f'{part}.0.verdict is "better", the record gives "')


def test_a_changed_or_missing_file_is_a_fault_whatever_wrote_the_report(archived_run):
    written_by(archived_run)
    (archived_run / "README.md").write_text("a third page")
    (archived_run / "figures" / "loss.svg").unlink()
    assert faults(archived_run) == [("changed", "README.md"), ("missing", "figures/loss.svg")]
    (archived_run / "README.md").unlink()
    edit_manifest(archived_run, lambda manifest: manifest["files"].pop("README.md"))
    assert ("missing", "README.md") in faults(archived_run)


@pytest.mark.parametrize("number", [1, 6])
def test_a_committed_experiment_is_sound(number):
    [experiment] = (Path(__file__).parent.parent / "experiments").glob(f"{number:05d}-*")
    assert faults(experiment) == []


def test_a_figure_that_the_manifest_forgot_is_missed(archived_run):
    (archived_run / "figures" / "loss.svg").unlink()
    edit_manifest(archived_run, lambda manifest: manifest["files"].pop("figures/loss.svg"))
    assert faults(archived_run) == [("missing", "figures/loss.svg")]


def test_a_config_of_another_schema_is_refused_with_its_key(archived_run):
    config = (archived_run / "config.yaml").read_text()
    forge(archived_run, "config.yaml", config.replace("max_steps:", "most_steps:"))
    (fault,) = check(archived_run).faults
    assert (fault.kind, fault.file) == ("refused", "config.yaml")
    assert "most_steps" in fault.why


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("name: !!python/object/apply:os.mkdir [made]", "not YAML"),
        ("name: 2026-99-99", "not YAML"),
    ],
)
def test_a_config_is_read_and_never_carried_out(tmp_path, monkeypatch, line, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(line)
    with pytest.raises(ArchiveError, match=why):
        check_config(tmp_path / "config.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_links_and_pipes_are_not_what_was_archived(archived_run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (archived_run / "README.md").unlink()
    (archived_run / "README.md").symlink_to(outside / "x")
    (archived_run / "more").symlink_to(outside)
    os.mkfifo(archived_run / "pipe")
    assert faults(archived_run) == [("changed", "README.md"), ("extra", "more"), ("extra", "pipe")]


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (None, ("refused", "manifest.json")),
        ({}, ("refused", "manifest.json")),
        ({"sha256": "0" * 64}, ("refused", "manifest.json")),
        ({"sha256": "../x", "bytes": 1}, ("changed", "status.json")),
    ],
)
def test_a_damaged_entry_is_found(archived_run, entry, fault):
    edit_manifest(archived_run, lambda manifest: manifest["files"].update({"status.json": entry}))
    assert faults(archived_run) == [fault]


def test_another_version_of_the_manifest_or_the_summary_is_refused_with_its_number(archived_run):
    edit_summary(archived_run, lambda summary: summary.update(version=7))
    with pytest.raises(ArchiveError, match=r"summary\.json: version '7', and this gpt2lab reads version 1"):
        read_summary(archived_run)
    (fault,) = check(archived_run).faults
    assert "version '7'" in fault.why
    edit_manifest(archived_run, lambda manifest: manifest.update(version=2))
    (fault,) = check(archived_run).faults
    assert (fault.kind, fault.file) == ("refused", "manifest.json") and "version '2'" in fault.why


@pytest.mark.parametrize(
    "content", ['{"model": 3}', '{"model": [1]}', "[" * 100_000, '{"data": {"splits": 1}}', '{"git": 4}']
)
def test_a_record_that_no_report_can_be_made_of_is_said(archived_run, content):
    forge(archived_run, "provenance.json", content)
    assert faults(archived_run)


def test_the_command_prints_a_line_each_and_ends_with_5_when_one_differs(archived_run, command):
    root = str(archived_run.parent)
    shutil.copytree(archived_run, archived_run.parent / "00002-other")
    (archived_run.parent / "00002-other" / "status.json").write_text("{}")
    (archived_run / "model.bin").unlink()
    assert command("verify", "1", "--root", root) == ("00001-first-light: ok (model.bin absent)\n", "")
    out, error = command("verify", "--root", root, expect=5)
    first, second = out.splitlines()
    assert first.startswith("00001-first-light: ok")
    assert second.startswith("00002-other: changed status.json: 2 bytes, archived with")
    assert error == f"gpt2lab: {root}: 1 of 2 experiments are not as they were archived\n"
    out, _ = command("verify", "--root", root, "--json", "--weights", expect=5)
    first, second = [json.loads(line) for line in out.splitlines()]
    assert first["faults"] == [{"file": "model.bin", "kind": "missing", "why": "the manifest lists it"}]
    assert (second["ok"], second["faults"][0]["file"]) == (False, "status.json")


def test_a_file_name_cannot_write_on_the_terminal(archived_run, command):
    (archived_run / "\x1b[2J\udcff\nok").write_text("")
    out, _ = command("verify", "--root", str(archived_run.parent), expect=5)
    assert out.count("\n") == 1 and "\x1b" not in out
    assert "extra ?[2J??ok" in out


def test_an_empty_archive_has_nothing_to_verify(tmp_path, command):
    _, error = command("verify", "--root", str(tmp_path), expect=5)
    assert "no experiments" in error
