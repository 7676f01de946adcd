"""A sweep as one experiment: what is copied, what its files say of all runs, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from gpt2lab.archive import archived_as, list_experiments, read_manifest
from gpt2lab.archive.store import NOTES
from gpt2lab.archive.sweeps import status_words, sweep_status
from gpt2lab.errors import ArchiveError
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import read_sweep
from tests.archived_sweeps import archive, copy
from tests.sweep_records import SWEEP_ID, write_banded_sweep, write_grokking_sweep

INTERRUPTED = "7-weight_decay=0.3-train_fraction=0.3-seed=2"
NOT_STARTED = "17-weight_decay=1.0-train_fraction=0.5-seed=3"


@pytest.fixture(scope="module")
def banded(tmp_path_factory) -> Path:
    """Three cells of three seeds, all finished, with weights and a sample in job 4."""
    path = write_banded_sweep(tmp_path_factory.mktemp("banded") / "sweep", widths=())
    folder = path / "runs/0-fc1_band=0-fc2_band=0-seed=1"
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "state.safetensors").write_bytes(b"moments")
    (folder / "samples" / "0.txt").write_text("once")
    return path


@pytest.fixture(scope="module")
def grokking(tmp_path_factory) -> Path:
    return write_grokking_sweep(tmp_path_factory.mktemp("grokking") / "sweep")


@pytest.fixture
def finished_sweep(banded, tmp_path) -> Path:
    return copy(banded, tmp_path / "runs" / "banded")


@pytest.fixture
def partial_sweep(grokking, tmp_path) -> Path:
    return copy(grokking, tmp_path / "runs" / "grokking")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_experiment_holds_the_plan_one_source_and_each_run(finished_sweep, tmp_path):
    path = archive(finished_sweep, tmp_path / "experiments")
    assert path.name == "00001-a-sweep"
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    top = {"README.md", "config.yaml", "manifest.json", "notes.md", "overrides.yaml", "provenance.json"}
    top |= {"source.tar.gz", "status.json", "summary.json", "sweep.json"}
    record = ("config.yaml", "metrics.csv", "overrides.yaml", "provenance.json", "status.json")
    folders = [f"runs/{k}-fc1_band=0-fc2_band=0-seed={k + 1}" for k in range(3)]
    weights = {f"{folders[0]}/model.bin", f"{folders[0]}/samples/0.txt"}
    assert files == top | {f"{folder}/{name}" for folder in folders for name in record} | weights
    for name in files - top | {"sweep.json"}:
        assert (path / name).read_bytes() == (finished_sweep / name).read_bytes()
    assert (path / "source.tar.gz").read_bytes() == (finished_sweep / folders[0] / "source.tar.gz").read_bytes()
    assert (path / "notes.md").read_text() == NOTES


def test_weights_of_each_run_stay_out_of_git_and_their_hash_is_kept(finished_sweep, tmp_path):
    manifest = read_manifest(archive(finished_sweep, tmp_path / "experiments"))
    assert [name for name, entry in manifest.items() if not entry["in_git"]] == [
        "runs/0-fc1_band=0-fc2_band=0-seed=1/model.bin"
    ]
    ignored = (Path(__file__).parent.parent / ".gitignore").read_text().splitlines()
    assert "/experiments/*/runs/*/model.bin" in ignored


def test_the_config_of_a_sweep_is_what_its_runs_have_in_common(partial_sweep, tmp_path):
    path = archive(partial_sweep, tmp_path / "experiments", name="Another name", force=True)
    config, first = RunDir(path).read_config(), RunDir(partial_sweep / "runs" / INTERRUPTED).read_config()
    assert (config.pop("name"), config.pop("hypothesis")) == ("Another name", read_sweep(path).hypothesis)
    del first["name"], first["hypothesis"], first["seed"]
    del first["optim"]["weight_decay"], first["data"]["train_fraction"]
    assert config == first
    assert RunDir(path).read_overrides() == list(read_sweep(path).overrides)


def test_the_provenance_of_a_sweep_is_what_its_runs_share_under_its_own_id(partial_sweep, tmp_path):
    path = archive(partial_sweep, tmp_path / "experiments", force=True)
    provenance = RunDir(path).read_provenance()
    sweep = read_sweep(path)
    assert provenance["run_id"] == SWEEP_ID
    assert provenance["command"] == list(sweep.command)
    lines = "\n".join(sorted(job.config_hash for job in sweep.jobs))
    assert provenance["config_hash"] == hashlib.sha256(lines.encode()).hexdigest()
    assert provenance["source_hash"] == "50" * 32
    detail = RunDir(path / "runs" / INTERRUPTED).read_provenance()["data"]["detail"]
    assert provenance["data"]["detail"] == {key: detail[key] for key in detail if key != "train_fraction"}


def test_the_status_of_a_sweep_counts_its_jobs(partial_sweep, tmp_path):
    path = archive(partial_sweep, tmp_path / "experiments", force=True)
    status = json.loads((path / "status.json").read_text())
    step = status.pop("step")
    assert status == {
        "state": "partial",
        "reason": "15 of 18 jobs finished; 1 diverged, 1 interrupted, 1 not started",
        "started": "2026-03-01T10:00:00+00:00",
        "ended": "2026-03-01T10:01:20+00:00",
        # 300 + seed in the 15 that finished (job 2 has seed 3, job 7 seed 2, job 17 seed 3), 61.8 as written in two
        "training_s": pytest.approx(15 * 300 + (6 * 1 + 5 * 2 + 4 * 3) + 2 * 61.8),
        "jobs": {"finished": 15, "diverged": 1, "interrupted": 1, "not started": 1},
    }
    assert step == sweep_status(read_sweep(partial_sweep))["step"]
    assert not (path / "runs" / NOT_STARTED).exists()


def test_a_sweep_whose_jobs_all_finished_is_finished(finished_sweep, tmp_path):
    status = json.loads((archive(finished_sweep, tmp_path / "experiments") / "status.json").read_text())
    assert (status["state"], status["reason"], status["jobs"]) == ("finished", None, {"finished": 3})


def test_jobs_that_did_not_have_their_turn_need_force_and_are_named(partial_sweep, tmp_path):
    with pytest.raises(ArchiveError, match=r"2 of its 18 jobs did not come to an end") as refused:
        archive(partial_sweep, tmp_path / "experiments")
    assert f"interrupted: {INTERRUPTED}; not started: {NOT_STARTED}" in str(refused.value)
    assert "running the same command again" in str(refused.value) and "--force" in str(refused.value)
    assert not (tmp_path / "experiments").exists()
    assert archive(partial_sweep, tmp_path / "experiments", allow_unfinished=True).is_dir()


def test_failed_and_diverged_jobs_do_not_hinder(finished_sweep, tmp_path):
    first, second, _ = read_sweep(finished_sweep).jobs
    edit(finished_sweep / first.folder / "status.json", state="failed", reason="loss nan", exit_code=4)
    shutil.rmtree(finished_sweep / second.folder)
    (finished_sweep / second.folder).mkdir()
    (finished_sweep / second.folder / "status.json").write_text('{"state": "failed", "reason": "no data", "step": 0}')
    path = archive(finished_sweep, tmp_path / "experiments")
    assert json.loads((path / "status.json").read_text())["jobs"] == {"finished": 1, "diverged": 1, "failed": 1}
    assert [file.name for file in (path / second.folder).iterdir()] == ["status.json"]


def test_a_job_at_work_is_named_and_not_archived_by_force_either(finished_sweep, tmp_path):
    job = read_sweep(finished_sweep).jobs[1]
    with RunDir.reopen(finished_sweep / job.folder) as run:
        run.write_status("running")
        with pytest.raises(ArchiveError, match=r"running: 1-fc1_band=0-fc2_band=0-seed=2; wait"):
            archive(finished_sweep, tmp_path / "experiments", force=True)
    with pytest.raises(ArchiveError, match=r"killed: 1-fc1_band"):
        archive(finished_sweep, tmp_path / "experiments")


def test_the_same_result_is_archived_once_and_a_sweep_continued_since_again(partial_sweep, tmp_path):
    root = tmp_path / "experiments"
    archive(partial_sweep, root, allow_unfinished=True)
    with pytest.raises(ArchiveError, match=r"this sweep is archived already, as 00001-a-sweep"):
        archive(partial_sweep, root, allow_unfinished=True)
    assert archive(partial_sweep, root, force=True).name == "00002-a-sweep"
    edit(partial_sweep / "runs" / INTERRUPTED / "status.json", state="finished")
    assert archive(partial_sweep, root, allow_unfinished=True).name == "00003-a-sweep"


def test_the_experiment_that_holds_a_sweep_as_it_is_now_is_found(partial_sweep, finished_sweep, tmp_path):
    root = tmp_path / "experiments"
    assert archived_as(partial_sweep, root) is None
    path = archive(partial_sweep, root, force=True)
    assert archived_as(partial_sweep, root) == path
    assert archived_as(path / "runs" / INTERRUPTED, root) is None  # one of its runs is no experiment
    edit(partial_sweep / "runs" / INTERRUPTED / "status.json", state="finished")
    assert archived_as(partial_sweep, root) is None
    assert archived_as(finished_sweep, root) is None


def test_the_same_grid_in_another_order_is_the_same_result(finished_sweep, tmp_path):
    path = archive(finished_sweep, tmp_path / "experiments")
    plan = json.loads((finished_sweep / "sweep.json").read_text())
    edit(finished_sweep / "sweep.json", jobs=plan["jobs"][::-1])
    assert archived_as(finished_sweep, tmp_path / "experiments") == path


def test_a_row_more_makes_another_result(finished_sweep):
    before = sweep_status(read_sweep(finished_sweep))["step"]
    metrics = finished_sweep / read_sweep(finished_sweep).jobs[2].folder / "metrics.csv"
    metrics.write_bytes(metrics.read_bytes() + metrics.read_bytes().splitlines(keepends=True)[-1])
    assert sweep_status(read_sweep(finished_sweep))["step"] != before


def test_folders_that_the_plan_does_not_name_are_left_behind(finished_sweep, tmp_path):
    copy(finished_sweep / "runs/0-fc1_band=0-fc2_band=0-seed=1", finished_sweep / "runs/0-earlier")
    path = archive(finished_sweep, tmp_path / "experiments")
    assert len(list((path / "runs").iterdir())) == 3


def test_an_archived_sweep_can_be_archived_somewhere_else(finished_sweep, tmp_path):
    first = archive(finished_sweep, tmp_path / "experiments")
    second = archive(first, tmp_path / "others")
    for name in read_manifest(first):
        assert (second / name).read_bytes() == (first / name).read_bytes()


def test_runs_of_different_code_are_refused_naming_two(finished_sweep, tmp_path):
    one, _, other = read_sweep(finished_sweep).jobs
    edit(finished_sweep / other.folder / "provenance.json", code_hash="51" * 32)
    with pytest.raises(ArchiveError, match=rf"{one.folder} and {other.folder} were made by different code"):
        archive(finished_sweep, tmp_path / "experiments")


def test_one_source_stands_for_all_runs_of_the_same_code(finished_sweep, tmp_path):
    one, _, other = read_sweep(finished_sweep).jobs
    edit(finished_sweep / other.folder / "provenance.json", source_hash="51" * 32)  # another README, for example
    path = archive(finished_sweep, tmp_path / "experiments")
    assert (path / "source.tar.gz").read_bytes() == (finished_sweep / one.folder / "source.tar.gz").read_bytes()
    provenance = RunDir(path).read_provenance()
    assert "source_hash" not in provenance and provenance["code_hash"] == "c0de" * 16


def test_swapped_folders_are_refused_naming_both_jobs(finished_sweep, tmp_path):
    one, other, _ = (finished_sweep / job.folder for job in read_sweep(finished_sweep).jobs)
    one.rename(finished_sweep / "aside")
    other.rename(one)
    (finished_sweep / "aside").rename(other)
    with pytest.raises(ArchiveError, match=r"not the config that sweep\.json has for job 0 .* one of job 1, runs/1-"):
        archive(finished_sweep, tmp_path / "experiments")


def test_a_config_that_nobody_planned_is_refused(finished_sweep, tmp_path):
    config = finished_sweep / "runs/2-fc1_band=0-fc2_band=0-seed=3/config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"seed": 44}))
    with pytest.raises(ArchiveError, match=r"seed=3/config\.yaml: not the config .* for job 2 .*: its hash is"):
        archive(finished_sweep, tmp_path / "experiments")


def test_a_damaged_row_of_a_run_is_named_with_its_file(finished_sweep, tmp_path):
    metrics = finished_sweep / "runs/1-fc1_band=0-fc2_band=0-seed=2/metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([*lines[:4], "30,one,\n", *lines[5:]]))
    with pytest.raises(ArchiveError, match=r"runs/1-fc1_band=0-fc2_band=0-seed=2/metrics\.csv, line 5: damaged"):
        archive(finished_sweep, tmp_path / "experiments")
    assert not list((tmp_path / "experiments").glob(".staging*"))


def test_a_finished_job_without_its_record_is_refused(finished_sweep, tmp_path):
    (finished_sweep / "runs/1-fc1_band=0-fc2_band=0-seed=2/metrics.csv").unlink()
    with pytest.raises(ArchiveError, match=r"runs/1-.*lacks metrics\.csv"):
        archive(finished_sweep, tmp_path / "experiments")


def test_a_sweep_without_any_record_is_refused(finished_sweep, tmp_path):
    for job in read_sweep(finished_sweep).jobs:
        for name in ("metrics.csv", "config.yaml", "provenance.json"):
            (finished_sweep / job.folder / name).unlink()
        edit(finished_sweep / job.folder / "status.json", state="failed")
    with pytest.raises(ArchiveError, match=r"none of its 3 jobs left a record"):
        archive(finished_sweep, tmp_path / "experiments")


def test_another_version_of_the_plan_is_refused_with_its_number(finished_sweep, tmp_path):
    edit(finished_sweep / "sweep.json", version=7)
    with pytest.raises(ArchiveError, match=r"sweep\.json: version '7', and this gpt2lab reads version 1"):
        archive(finished_sweep, tmp_path / "experiments", force=True)


def test_nothing_is_half_made_when_a_copy_fails(finished_sweep, tmp_path, monkeypatch):
    real, copies = shutil.copyfile, []

    def fill(source, target):
        copies.append(target)
        if len(copies) == 9:
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(ArchiveError, match=r"cannot copy the sweep into: no space left on device"):
        archive(finished_sweep, tmp_path / "experiments")
    assert list((tmp_path / "experiments").iterdir()) == []


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({"kind": "sweep", "status": "partial", "jobs": {"finished": 15, "failed": 3}}, "15 of 18 finished"),
        ({"kind": "sweep", "status": "partial", "jobs": {"failed": 2}}, "0 of 2 finished"),
        ({"status": "interrupted"}, "interrupted"),
        ({"kind": "sweep", "status": "partial", "jobs": "many"}, "partial"),
        ({}, None),
    ],
)
def test_a_list_shows_how_many_jobs_finished(summary, words):
    assert status_words(summary) == words


def test_a_sweep_is_one_of_the_experiments_of_a_list(partial_sweep, tmp_path):
    archive(partial_sweep, tmp_path / "experiments", force=True)
    [listed] = list_experiments(tmp_path / "experiments")
    assert listed.damage == () and listed.provenance["run_id"] == SWEEP_ID
