"""Archived sweeps in the hands of every command: snapshot, list, show, report, verify, export, import, compare."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from gpt2lab.archive import read_manifest
from gpt2lab.archive.manifest import refreshed, write_entries
from gpt2lab.archive.transfer import export_experiment, import_experiment
from gpt2lab.archive.verify import verify
from gpt2lab.cli.trust import check_config
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import file_sha256
from gpt2lab.run import main as run_main
from tests.archived_sweeps import archive, copy, write_small_report
from tests.run_records import text_rows, write_record, write_text_run
from tests.sweep_records import write_banded_sweep, write_grokking_sweep
from tests.tiny_runs import QUIET

FIRST, SECOND = (f"runs/{k}-fc1_band=0-fc2_band=0-seed={k + 1}" for k in range(2))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """runs/: a sweep of six that finished, one of eighteen that was interrupted, and a run of its own, the latest."""
    runs = tmp_path_factory.mktemp("made") / "runs"
    sweep = write_banded_sweep(runs / "sweeps" / "a", widths=(128,))
    (sweep / FIRST / "model.bin").write_bytes(b"weights")
    write_grokking_sweep(runs / "sweeps" / "b")
    run = write_text_run(runs / "single")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"ended": "2026-04-01T10:00:00+00:00"}))
    return runs


@pytest.fixture
def workplace(made, tmp_path, monkeypatch) -> Path:
    """A folder with those runs/, as the current directory; reports of sweeps are small ones."""
    from gpt2lab import report

    real = report.write_report
    both = {True: write_small_report, False: real}
    monkeypatch.setattr(report, "write_report", lambda path, title: both[(path / "sweep.json").exists()](path, title))
    copy(made, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def archived_sweep(workplace) -> Path:
    return archive(Path("runs/sweeps/a"), Path("experiments"), name="banded")


def faults(directory: Path, **options) -> list[tuple[str, str]]:
    checks = {"check_config": check_config, "write_report": write_small_report, **options}
    return [(fault.kind, fault.file) for fault in verify(directory, **checks).faults]


def forge(directory: Path, name: str, content: bytes) -> None:
    """Change a file together with its line in the manifest."""
    (directory / name).write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    entry = {"sha256": file_sha256(directory / name), "bytes": len(content), "in_git": True}
    manifest["files"][name] = entry
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_snapshot_makes_one_experiment_of_a_sweep(workplace, command):
    out, _ = command("snapshot", "runs/sweeps/a", "--hypothesis", "bands cost little")
    assert out == "runs/sweeps/a is experiment experiments/00001-banded\n"
    assert yaml.safe_load(Path("experiments/00001-banded/config.yaml").read_text())["hypothesis"] == "bands cost little"
    assert "archived already, as 00001-banded" in command("snapshot", "runs/sweeps/a", expect=5)[1]


def test_snapshot_of_an_interrupted_sweep_needs_force(workplace, command):
    assert "2 of its 18 jobs did not come to an end" in command("snapshot", "runs/sweeps/b", expect=5)[1]
    assert not Path("experiments").exists()
    out, _ = command("snapshot", "runs/sweeps/b", "--force")
    assert out == "runs/sweeps/b is experiment experiments/00001-grokking, without weights: no run has a model.bin\n"


def test_snapshot_of_a_folder_takes_sweeps_whole_beside_single_runs(workplace, command):
    out, error = command("snapshot", "runs")
    assert [line.partition(" is ")[0] for line in out.splitlines()] == ["runs/single", "runs/sweeps/a"]
    assert error.startswith("left out: runs/sweeps/b: 2 of its 18 jobs")


def test_snapshot_without_a_name_takes_what_ended_last(workplace, command):
    assert command("snapshot")[0].startswith("runs/single is experiment")
    status = Path("runs/sweeps/a", SECOND, "status.json")
    status.write_text(json.dumps(json.loads(status.read_text()) | {"ended": "2026-05-01T10:00:00+00:00"}))
    assert command("snapshot")[0].startswith("runs/sweeps/a is experiment")


def test_list_and_the_index_say_how_many_jobs_finished(workplace, command):
    command("snapshot", "runs/sweeps/b", "--force")
    assert "15 of 18 finished" in command("list")[0]
    assert "| 15 of 18 finished |" in Path("experiments/README.md").read_text()
    [entry] = [json.loads(line) for line in command("list", "--json")[0].splitlines()]
    assert entry["jobs"] == {"finished": 15, "diverged": 1, "interrupted": 1, "not started": 1}


def test_a_sweep_is_chosen_by_what_its_runs_have_in_common(workplace, archived_sweep, command):
    assert "banded" in command("list", "--where", "train.max_steps==600 or optim.beta2==0.99 or status=='finished'")[0]
    assert "00001" in command("list", "--where", "sparsity=='banded'")[0]
    assert "no experiment matches" in command("list", "--where", "sparsity=='dense'")[0]
    assert "no experiment matches" in command("list", "--where", "seed==1")[0]  # the seeds of its runs differ


def test_show_and_report_take_the_whole_sweep_and_not_one_run(workplace, archived_sweep, command):
    assert "banded" in command("show", "1")[0]
    before = (archived_sweep / "README.md").read_bytes()
    command("report", "1")
    assert (archived_sweep / "README.md").read_bytes() == before
    for name in ("show", "report", "verify", "export"):
        _, error = command(name, "1/3", expect=5)
        assert "'1/3' is one run of the sweep 00001-banded, expected a whole experiment" in error
        assert error.count("\n") == 1


def test_a_sweep_as_it_was_archived_is_sound(archived_sweep):
    assert verify(archived_sweep, weights=True, check_config=check_config, write_report=write_small_report).faults == ()


def test_one_changed_byte_in_any_file_of_a_sweep_is_found_and_named(archived_sweep):
    names = set(read_manifest(archived_sweep)) - {"notes.md"}
    assert f"{SECOND}/metrics.csv" in names
    for name in sorted(names):
        path = archived_sweep / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        found = verify(archived_sweep).faults
        path.write_bytes(content)
        assert [(fault.kind, fault.file) for fault in found] == [("changed", name)]


def test_weights_of_a_run_may_be_absent(archived_sweep):
    (archived_sweep / FIRST / "model.bin").unlink()
    assert faults(archived_sweep) == []
    assert faults(archived_sweep, weights=True) == [("missing", f"{FIRST}/model.bin")]


def test_the_bad_row_of_a_run_is_named(archived_sweep):
    path = archived_sweep / SECOND / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], "30,one,\n", *lines[5:]]))
    [fault] = verify(archived_sweep).faults
    assert fault.file == f"{SECOND}/metrics.csv" and "line 5: damaged" in fault.why


def test_the_files_of_a_report_are_rewritten_at_the_top_only(archived_sweep):
    (archived_sweep / SECOND / "README.md").write_text("a page of a stranger")
    (archived_sweep / SECOND / "figures").mkdir()
    (archived_sweep / SECOND / "figures" / "loss.svg").write_text("<svg/>")
    write_entries(archived_sweep, refreshed(archived_sweep, archived_sweep))
    assert faults(archived_sweep) == [("extra", f"{SECOND}/README.md"), ("extra", f"{SECOND}/figures/loss.svg")]


def test_swapped_run_folders_are_named_though_every_hash_fits(archived_sweep):
    one, other = archived_sweep / FIRST, archived_sweep / SECOND
    for name in ("config.yaml", "metrics.csv", "overrides.yaml", "provenance.json", "status.json"):
        first, second = (path.joinpath(name).read_bytes() for path in (one, other))
        forge(archived_sweep, f"{FIRST}/{name}", second)
        forge(archived_sweep, f"{SECOND}/{name}", first)
    verdict = verify(archived_sweep, check_config=check_config)
    assert [(fault.kind, fault.file) for fault in verdict.faults] == [
        ("refused", f"{FIRST}/config.yaml"),
        ("refused", f"{SECOND}/config.yaml"),
    ]
    assert "it is the one of job 1" in verdict.faults[0].why


def test_a_folder_that_the_plan_does_not_name_is_refused(archived_sweep):
    (archived_sweep / "runs" / "99-more").mkdir()
    forge(archived_sweep, "runs/99-more/status.json", b"{}")
    assert faults(archived_sweep) == [("refused", "runs/99-more")]


def test_a_config_of_one_run_that_does_not_compose_is_named(archived_sweep):
    config = yaml.safe_load((archived_sweep / SECOND / "config.yaml").read_text())
    forge(archived_sweep, f"{SECOND}/config.yaml", yaml.safe_dump(config | {"colour": "red"}).encode())
    found = faults(archived_sweep)
    assert found == [("refused", f"{SECOND}/config.yaml")]


@pytest.mark.parametrize("content", [b"{}", b"[", b'{"version": 3, "jobs": []}'])
def test_a_plan_that_cannot_be_read_is_a_fault(archived_sweep, content):
    forge(archived_sweep, "sweep.json", content)
    assert ("refused", "sweep.json") in faults(archived_sweep, write_report=None)


def test_a_row_that_is_changed_together_with_its_hash_no_longer_gives_the_report(archived_sweep):
    content = (archived_sweep / SECOND / "metrics.csv").read_bytes()
    forge(
        archived_sweep,
        f"{SECOND}/metrics.csv",
        content + content.splitlines(keepends=True)[-1].replace(b"1000,", b"1001,", 1),
    )
    assert faults(archived_sweep) == [("stale", "summary.json")]


def test_a_sweep_goes_to_another_archive_with_all_its_runs(archived_sweep, tmp_path):
    tar = export_experiment(archived_sweep, tmp_path / "a.tar")
    weights = export_experiment(archived_sweep, tmp_path / "b.tar", weights=True)
    there = import_experiment(tar, tmp_path / "others")
    assert faults(there) == [] and not (there / FIRST / "model.bin").exists()
    for name in set(read_manifest(archived_sweep)) - {f"{FIRST}/model.bin"}:
        assert (there / name).read_bytes() == (archived_sweep / name).read_bytes()
    with pytest.raises(ArchiveError, match=r"archived already, as 00001-banded"):
        import_experiment(weights, tmp_path / "others")
    assert (import_experiment(weights, tmp_path / "more") / FIRST / "model.bin").read_bytes() == b"weights"


def test_weights_that_are_absent_from_many_runs_are_counted(workplace, command, monkeypatch):
    sweep = write_banded_sweep(Path("sweep"), widths=(128,))
    for run in (sweep / "runs").iterdir():
        (run / "model.bin").write_bytes(b"weights")
    path = archive(sweep, Path("experiments"))
    for weights in path.glob("runs/*/model.bin"):
        weights.unlink()
    monkeypatch.setattr("gpt2lab.report.write_report", write_small_report)
    assert command("verify")[0] == "00001-a-sweep: ok (12 files of weights absent)\n"


def test_an_experiment_that_cannot_be_read_does_not_hide_the_others_from_verify(archived_sweep, command, monkeypatch):
    archive(write_banded_sweep(Path("other"), widths=(128,)), Path("experiments"), force=True)

    def unreadable(path, **options):
        if path.name.startswith("00001"):
            raise ArchiveError(f"{path}: cannot read: permission denied")
        return verify(path, **{**options, "write_report": write_small_report})

    monkeypatch.setattr("gpt2lab.cli.trust.verify_experiment", unreadable)
    shown, error = command("verify", expect=5)
    assert "00001" in shown and "unreadable" in shown and "permission denied" in shown
    assert "00002-a-sweep: ok" in shown
    assert "1 of 2 experiments" in error


def test_compare_takes_the_runs_of_a_sweep_by_its_number_alone(archived_sweep, command):
    out, _ = command("compare", "1")
    assert "1/0 1/1 1/2" in out and "fc1_band=128 fc2_band=0" in out and "worse" in out
    assert "more runs of the archive" not in out  # its own runs are not those beside
    found = json.loads(command("compare", "1", "--baseline", "1/9", "--json")[0])
    assert found["rows"][0]["experiments"] == [
        f"00001-banded/runs/{k}-fc1_band=128-fc2_band=128-seed={k - 8}".replace("runs/", "") for k in (9, 10, 11)
    ]


def test_a_sweep_compared_by_itself_brings_its_metric_and_its_baseline(workplace, command):
    path = write_banded_sweep(workplace / "sweep") / "sweep.json"
    plan = json.loads(path.read_text()) | {"metric": "val_accuracy", "baseline": {"fc1_band": 256, "fc2_band": 0}}
    path.write_text(json.dumps(plan))
    archive(path.parent, workplace / "experiments")
    found = json.loads(command("compare", "1", "--json")[0])
    assert found["metric"] == "val_accuracy"
    assert found["rows"][0]["varies"] == {"fc1_band": "256", "fc2_band": "0"}
    assert json.loads(command("compare", "1", "--metric", "val_loss", "--json")[0])["metric"] == "val_loss"


def test_a_baseline_of_another_type_is_found_and_one_that_no_run_has_is_refused(workplace, command):
    path = write_banded_sweep(workplace / "sweep", widths=(128,)) / "sweep.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"baseline": {"fc1_band": "128", "fc2_band": "128"}}))
    archived = archive(path.parent, workplace / "experiments")
    assert json.loads(command("compare", "1", "--json")[0])["rows"][0]["varies"] == {
        "fc1_band": "128",
        "fc2_band": "128",
    }
    for run in archived.glob("runs/*-fc1_band=128-fc2_band=128-*"):
        (run / "status.json").unlink()
    _, error = command("compare", "1", expect=5)
    assert "the baseline (fc1_band=128 fc2_band=128) has no finished run" in error


def test_compare_tells_equal_folders_of_two_sweeps_apart(archived_sweep, command):
    shutil.copytree(archived_sweep, archived_sweep.parent / "00002-again")
    out, _ = command("compare", "1/0", "2/3")
    assert "1/0" in out and "2/3" in out
    _, error = command("compare", "1", "2", expect=5)
    assert "00001-banded/0-fc1_band=0-fc2_band=0-seed=1 and 00002-again/0-fc1_band=0-fc2_band=0-seed=1" in error
    assert "named twice" in command("compare", "1", "1/0", expect=2)[1]


def test_compare_counts_out_the_jobs_of_a_sweep_that_did_not_finish(workplace, command):
    command("snapshot", "runs/sweeps/b", "--force")
    out, _ = command("compare", "1", "--metric", "val_accuracy")
    assert "left out: 00001-grokking/2-weight_decay=0.0-train_fraction=0.3-seed=3: failed" in out
    assert "left out: 00001-grokking/7-weight_decay=0.3-train_fraction=0.3-seed=2: interrupted" in out


def test_one_run_of_a_sweep_is_not_compared_with_itself(archived_sweep, command):
    assert "two experiments or more" in command("compare", "1/0", expect=2)[1]
    assert "is a sweep of 12 runs" in command("compare", "1", "--baseline", "1", expect=5)[1]


def test_text_is_sampled_from_one_run_of_a_sweep_only(archived_sweep, command):
    assert "00001-banded is a sweep of 12 runs, expected one of them, 1/JOB" in command("sample", "1", expect=5)[1]
    assert f"{SECOND}/model.bin: missing" in command("sample", "1/1", expect=5)[1]


def test_a_sweep_archives_itself_once_and_its_second_start_says_where(workplace, capsys):
    grid = [*(word for word in QUIET if word != "archive.mode=off"), "train.max_steps=1", "name=tiny", "seed=1,2"]
    assert run_main(["-m", *grid]) == 0
    path = Path("experiments/00001-tiny")
    assert f"archived {path}" in capsys.readouterr().out
    assert json.loads((path / "status.json").read_text())["jobs"] == {"finished": 2}
    assert verify(path, weights=True, check_config=check_config, write_report=write_small_report).faults == ()
    assert run_main(["-m", *grid]) == 0
    assert f"archived already as {path}" in capsys.readouterr().out
    assert [entry.name for entry in Path("experiments").iterdir() if entry.is_dir()] == ["00001-tiny"]


def test_the_noise_of_the_archive_is_frozen_and_the_report_stays_the_same(made, tmp_path, monkeypatch, command):
    from gpt2lab.report import write_report

    copy(made, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        run = tmp_path / "runs" / "more" / str(seed)
        write_record(run, text_rows(), config={"seed": seed}, provenance={"run_id": f"{seed:032x}"})
    command("snapshot", "runs/more")
    command("snapshot", "runs/sweeps/a")
    sweep = next(Path("experiments").glob("*-banded"))
    assert "noise.json" in read_manifest(sweep)
    page = (sweep / "README.md").read_text()
    assert "of the archive when it was made: 2 runs in 1 group" in page
    assert verify(sweep, check_config=check_config, write_report=write_report).faults == ()
    command("snapshot", str(run), "--force")  # the archive grows
    write_report(sweep, "banded")
    assert (sweep / "README.md").read_text() == page
