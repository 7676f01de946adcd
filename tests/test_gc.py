"""What can be deleted, and what never is: every file is in an experiment that verifies, or the run stays."""

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from gpt2lab.archive.gc import DELETED, JudgedFolder, delete, find_garbage
from gpt2lab.archive.staging import PREFIX, staging_folder
from gpt2lab.errors import ArchiveError
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import read_sweep
from gpt2lab.run import main
from tests.sweep_records import write_banded_sweep
from tests.test_store import archive, make_run
from tests.test_store_processes import FORK
from tests.tiny_runs import QUIET


@pytest.fixture
def archived(tmp_path, monkeypatch) -> Path:
    """A folder with runs/day/a, which is archived."""
    monkeypatch.chdir(tmp_path)
    archive(make_run(Path("runs/day/a")), Path("experiments"))
    return tmp_path


def found() -> dict[str, JudgedFolder]:
    return {finding.path.name: finding for finding in find_garbage(Path("experiments"), Path("runs"))}


def deleted() -> list[str]:
    findings = find_garbage(Path("experiments"), Path("runs"))
    return [one.path.name for one in delete(Path("experiments"), Path("runs"), findings) if one.can_go]


def file_names(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))


def make_old(path: Path) -> Path:
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def test_a_run_that_an_experiment_holds_whole_can_go_and_nothing_else_is_touched(archived):
    make_run(Path("runs/day/b"))
    experiment = file_names("experiments")
    assert {name: (one.can_go, one.why) for name, one in found().items()} == {
        "a": (True, "archived as 00001-first-light"),
        "b": (False, "not archived, and can be continued with resume=runs/day/b"),
    }
    assert deleted() == ["a"]
    assert [path.name for path in Path("runs/day").iterdir()] == ["b"]
    assert file_names("experiments") == experiment and found().keys() == {"b"}


def test_the_bytes_are_those_that_deleting_frees(archived):
    run = Path("runs/day/a")
    linked = (run / "model.bin").stat()
    assert linked.st_nlink == 2
    sizes = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert found()["a"].bytes == sizes - linked.st_size


def reverse_metrics(run: Path) -> None:
    """Change metrics.csv, but not its size."""
    (run / "metrics.csv").write_text((run / "metrics.csv").read_text()[::-1])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda run: (run / "metrics.csv").write_text("step\n9\n"), "metrics.csv is not what 00001-first-light holds"),
        (reverse_metrics, "metrics.csv is not what 00001-first-light holds"),
        (lambda run: (run / "samples" / "1.txt").write_text("new"), "does not hold samples/1.txt"),
        (lambda run: (run / "thoughts.txt").write_text("mine"), "does not hold thoughts.txt"),
        (lambda run: (run / "notes.md").write_text("mine"), "notes.md is not what 00001-first-light holds"),
        (lambda run: (run / "config.yaml").write_text("seed: 1"), "config.yaml is not what"),
        (lambda run: (run / "link").symlink_to("/etc/hostname"), "link is a link"),
        (lambda run: (run / "status.json").write_text("{"), "status.json: damaged"),
        (lambda run: (run / "model.bin").unlink() or (run / "model.bin").write_bytes(b"later"), "model.bin is not"),
    ],
)
def test_a_run_that_is_not_what_was_archived_stays(archived, change, why):
    change(Path("runs/day/a"))
    assert not found()["a"].can_go and why in found()["a"].why
    assert deleted() == [] and Path("runs/day/a/metrics.csv").exists()


@pytest.mark.parametrize("file", ["metrics.csv", "model.bin", "manifest.json", "README.md"])
def test_a_run_whose_experiment_is_damaged_stays(archived, file):
    path = Path("experiments/00001-first-light") / file
    path.unlink()
    path.write_text("{}")
    assert "00001-first-light is not as it was archived" in found()["a"].why and not found()["a"].can_go


def test_a_run_whose_weights_are_not_in_this_copy_of_the_archive_stays(archived):
    Path("experiments/00001-first-light/model.bin").unlink()
    assert found()["a"].why == "00001-first-light is not as it was archived: missing model.bin"


def test_a_run_that_was_archived_under_another_name_can_go(archived):
    archive(make_run(Path("runs/c")), Path("experiments"), name="other", hypothesis="that it goes")
    assert found()["c"].can_go


@pytest.mark.parametrize("state", ["interrupted", "failed", "running"])
def test_the_only_way_to_continue_a_run_is_kept_though_the_run_is_archived(archived, state):
    run = make_run(Path("runs/b"), state=state)
    archive(run, Path("experiments"), name="stopped", force=True)
    assert found()["b"].why == "archived as 00002-stopped, and can be continued with resume=runs/b"
    assert deleted() == ["a"] and (run / "state.safetensors").exists()


def test_the_only_way_to_continue_a_job_is_kept_with_its_sweep(archived):
    sweep = write_banded_sweep(Path("runs/sweeps/day/banded"), widths=(128,))
    job = sorted((sweep / "runs").iterdir())[0]
    (job / "state.safetensors").write_bytes(b"moments")
    with RunDir.reopen(job) as run:
        run.write_status("interrupted")
    archive(sweep, Path("experiments"), name="stopped", force=True)
    assert found()["banded"].why == f"archived as 00002-stopped, and can be continued with resume={job}"
    (job / "state.safetensors").unlink()
    assert found()["banded"].why == "archived as 00002-stopped"


@pytest.mark.parametrize("state", ["interrupted", "failed", "running"])
def test_an_unfinished_run_goes_only_when_it_is_archived_in_that_state(archived, state):
    run = make_run(Path("runs/b"), state=state)
    (run / "state.safetensors").unlink()
    assert not found()["b"].can_go
    archive(run, Path("experiments"), name="stopped", force=True)
    assert found()["b"].can_go
    with RunDir.reopen(run) as again:
        again.write_status("running", step=9)
        assert found()["b"].why == "a process is at work in runs/b"
        findings = [JudgedFolder(path=run, kind="run", can_go=True, why="", bytes=0)]
        [kept] = delete(Path("experiments"), Path("runs"), findings)
        assert not kept.can_go and "is running in it" in kept.why
    assert not found()["b"].can_go  # it was continued since


def test_a_run_that_wrote_nothing_can_go_and_one_with_a_row_stays(archived):
    for name, state in (("nothing", "failed"), ("killed", "running"), ("row", "failed"), ("noted", "failed")):
        with RunDir.claim(Path("runs") / name) as run:
            run.write_status(state)
    Path("runs/noted/notes.md").write_text("why it failed")
    shutil.copyfile("runs/day/a/metrics.csv", "runs/row/metrics.csv")
    shutil.copyfile("runs/day/a/provenance.json", "runs/row/provenance.json")
    assert {name for name, one in found().items() if one.can_go} == {"a", "nothing", "killed"}
    assert sorted(deleted()) == ["a", "killed", "nothing"]


@pytest.mark.parametrize("name", ["thoughts.txt", "samples/sample-1.txt", "notes.md", "figures/mine.png", "model"])
def test_a_file_of_somebodys_own_keeps_a_run_that_wrote_nothing(archived, name):
    run = Path("runs/nothing")
    with RunDir.claim(run) as claimed:
        claimed.write_status("failed", reason="boom")
    for log in ("output.txt", "run.log", "traceback.txt", ".hydra/config.yaml", "wandb/offline/run.wandb"):
        (run / log).parent.mkdir(parents=True, exist_ok=True)
        (run / log).write_text("by itself")
    assert found()["nothing"].can_go
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("mine")
    assert found()["nothing"].why == f"it ended before it wrote a row or a checkpoint, but holds {name}"
    assert deleted() == ["a"] and (run / name).read_text() == "mine"


def test_a_run_of_another_machine_stays_until_it_was_silent_for_a_day(archived):
    run = Path("runs/far")
    RunDir.claim(run).close()
    status = json.loads((run / "status.json").read_text())
    assert found()["far"].can_go  # of this machine, and nobody holds it
    (run / "status.json").write_text(json.dumps({**status, "host": "another"}))
    assert found()["far"].why == "runs/far is running on another machine, as far as can be seen from here"
    assert deleted() == ["a"] and run.is_dir()
    day_old = time.time() - 86_500
    os.utime(run / "status.json", (day_old, day_old))
    assert found()["far"].can_go
    (run / "metrics.csv").touch()
    assert not found()["far"].can_go  # a row a moment ago


@pytest.fixture
def retried(archived) -> tuple[Path, Path]:
    """An archived sweep and an earlier attempt at its first job, which failed after some rows."""
    sweep = write_banded_sweep(Path("runs/sweeps/day/banded"), widths=(128,))
    archive(sweep, Path("experiments"), name="banded")
    job = sorted((sweep / "runs").iterdir())[0]
    attempt = Path(shutil.copytree(job, job.with_name("0-earlier")))
    facts = json.loads((job / "provenance.json").read_text())
    facts |= {"run_id": "another", "config_hash": read_sweep(sweep).jobs[0].config_hash}
    (attempt / "provenance.json").write_text(json.dumps(facts))
    with RunDir.reopen(attempt) as run:
        run.write_status("failed", reason="boom")
    return sweep, attempt


def test_an_earlier_attempt_goes_with_the_sweep_when_a_later_one_took_its_place(retried):
    assert found()["banded"].why == "archived as 00002-banded"
    (retried[1] / "output.txt").write_text("what it printed")
    assert sorted(deleted()) == ["a", "banded"] and not retried[0].exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda attempt: (attempt / "thoughts.txt").write_text("mine"), "not archived"),
        (lambda attempt: (attempt / "status.json").write_text('{"state": "finished"}'), "not archived"),
        (lambda attempt: (attempt / "provenance.json").write_text("{}"), "not archived"),
    ],
)
def test_an_earlier_attempt_that_may_be_worth_something_stays_and_it_is_said_what_to_do(retried, change, why):
    sweep, attempt = retried
    change(attempt)
    said = found()["banded"].why
    assert said.startswith(f"archived as 00002-banded, but {attempt} is an earlier attempt at a job, and ")
    assert why in said and said.endswith(f"archive it by itself with gpt2lab snapshot {attempt}, or delete it")
    assert deleted() == ["a"] and sweep.is_dir()


def test_an_earlier_attempt_that_is_an_experiment_of_its_own_goes_with_the_sweep(retried):
    _, attempt = retried
    (attempt / "status.json").write_text('{"state": "finished"}')
    archive(attempt, Path("experiments"), name="earlier")
    assert found()["banded"].can_go and found()["banded"].why == "archived as 00002-banded"


@pytest.mark.slow
def test_a_sweep_that_several_processes_ran_can_go(workplace):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    quiet = [*(word for word in QUIET if not word.startswith("archive.")), "train.max_steps=1", "name=tiny"]
    assert main(["-m", *quiet, "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]) == 0
    get_reusable_executor = pytest.importorskip("joblib.externals.loky").get_reusable_executor
    get_reusable_executor().shutdown(wait=True)
    assert len(list(Path("runs").rglob("output.txt"))) == 2
    [sweep] = find_garbage(Path("experiments"), Path("runs"))
    assert (sweep.kind, sweep.can_go, sweep.why) == ("sweep", True, "archived as 00001-tiny")
    assert [one.can_go for one in delete(Path("experiments"), Path("runs"), [sweep])] == [True]
    assert not sweep.path.exists()


def test_staging_of_a_dead_process_can_go_and_of_a_living_one_stays(archived):
    root = Path("experiments")
    dead = root / f"{PREFIX}dead"
    dead.mkdir()
    (dead / "metrics.csv").write_text("half")
    assert not found()[dead.name].can_go  # its maker may be about to lock it
    make_old(dead)
    with staging_folder(root, "test") as living:
        make_old(living)
        assert found()[dead.name].can_go and not found()[living.name].can_go
        assert set(deleted()) == {dead.name, "a"}
        assert living.is_dir() and not dead.exists()
        (living / "done").touch()
        living.rename(root / "00002-done")
    assert find_garbage(root, Path("runs")) == []


def test_what_an_interrupted_deletion_left_can_go(archived):
    left = Path("runs/day") / f"{DELETED}1"
    Path("runs/day/a").rename(left)
    assert found()[left.name].can_go and deleted() == [left.name] and list(Path("runs/day").iterdir()) == []


def test_a_sweep_can_go_when_the_archive_has_every_run_of_it(archived):
    sweep = write_banded_sweep(Path("runs/sweeps/day/banded"), widths=(128,))
    assert found()["banded"].why == "not archived"
    archive(sweep, Path("experiments"), name="banded")
    assert found()["banded"].kind == "sweep" and found()["banded"].why == "archived as 00002-banded"
    first = next((sweep / "runs").iterdir())
    with RunDir.reopen(first):
        assert found()["banded"].why == f"a process is at work in {first}"
    assert sorted(deleted()) == ["a", "banded"] and not sweep.exists()


def test_a_folder_below_an_archive_is_never_looked_at(archived):
    for runs in ("experiments", "experiments/00001-first-light"):
        with pytest.raises(ArchiveError, match="lies in the archive"):
            find_garbage(Path("experiments"), Path(runs))
    assert found().keys() == {"a"}
    Path("experiments").rename("runs/experiments")
    shutil.copytree("runs/experiments", "runs/another")
    listed = find_garbage(Path("runs/experiments"), Path("runs"))
    assert [one.path for one in listed] == [Path("runs/day/a")]


def snapshot_and_report(root: Path, names: list[str]) -> None:
    for name in names:
        archive(make_run(Path("runs") / name), root, name=name)


def test_snapshots_and_gc_at_once_lose_nothing(archived):
    names = [[f"w{k}-{n}" for n in range(12)] for k in range(3)]
    processes = [FORK.Process(target=snapshot_and_report, args=(Path("experiments"), part)) for part in names]
    for process in processes:
        process.start()
    gone: list[str] = []
    while any(process.is_alive() for process in processes):
        gone += deleted()
    for process in processes:
        process.join()
    gone += deleted()
    assert [process.exitcode for process in processes] == [0] * 3
    assert sorted(gone) == sorted(["a", *(name for part in names for name in part)])
    experiments = [path.name for path in Path("experiments").iterdir() if path.is_dir()]
    assert len(experiments) == 37 and not [name for name in experiments if name.startswith(".")]
    assert multiprocessing.active_children() == []


def test_the_command_is_a_dry_run_until_it_is_told_to_delete(archived, command):
    out, _ = command("gc")
    assert out.startswith(f"can go   runs/day/a  ({found()['a'].bytes:,} bytes): archived as 00001-first-light")
    assert "1 folder of 1" in out and "gpt2lab gc --delete deletes them" in out and Path("runs/day/a").exists()
    [line] = command("gc", "--json")[0].splitlines()
    expected = {"path": "runs/day/a", "kind": "run", "verdict": "can go", "why": "archived as 00001-first-light"}
    assert json.loads(line) == {**expected, "bytes": found()["a"].bytes}
    assert "deleted  runs/day/a" in command("gc", "--delete")[0] and not Path("runs/day/a").exists()
    assert "hold no run" in command("gc")[0]
    assert "lies in the archive" in command("gc", "--runs", "experiments", expect=5)[1]
