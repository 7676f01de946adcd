"""The archive under many processes, kills, full disks and files that change: complete experiments or none, no gaps."""

import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2lab.archive import find_experiments, list_experiments, store
from gpt2lab.archive.staging import PREFIX
from gpt2lab.archive.verify import verify
from gpt2lab.errors import ArchiveError
from gpt2lab.record.rundir import RunDir
from tests.test_store import archive, make_run, write_small_report

FORK = multiprocessing.get_context("fork")


def archive_often(root: Path, run: Path, count: int) -> None:
    for _ in range(count):
        archive(run, root, name=run.name, force=True)


def staging_folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.name.startswith(PREFIX)]


def assert_whole(root: Path, *, at_least: int) -> None:
    """Every experiment verifies, and their numbers have no gap."""
    experiments = list_experiments(root)
    assert [experiment.number for experiment in experiments] == list(range(1, len(experiments) + 1))
    assert len(experiments) >= at_least
    for experiment in experiments:
        assert experiment.damage == ()
        assert verify(experiment.path, weights=True).faults == ()


@pytest.mark.slow
def test_eight_processes_make_two_hundred_numbers_without_a_gap(tmp_path):
    root = tmp_path / "experiments"
    runs = [make_run(tmp_path / "runs" / f"run-{k}") for k in range(8)]
    processes = [FORK.Process(target=archive_often, args=(root, run, 25)) for run in runs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * 8
    assert_whole(root, at_least=200)
    by_run = [experiment.slug for experiment in find_experiments(root)]
    assert {name: by_run.count(name) for name in set(by_run)} == {run.name: 25 for run in runs}
    assert staging_folders(root) == []


@pytest.mark.slow
def test_a_hundred_kills_leave_no_half_experiment_and_no_gap(tmp_path):
    root = tmp_path / "experiments"
    run = make_run(tmp_path / "run")
    archive(run, root)
    moments = random.Random(4)
    for _ in range(100):
        process = FORK.Process(target=archive_often, args=(root, run, 10**6))
        process.start()
        time.sleep(moments.uniform(0.001, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        numbers = [experiment.number for experiment in find_experiments(root)]
        assert numbers == list(range(1, len(numbers) + 1))
    assert staging_folders(root)  # kills that came in the middle
    before = len(find_experiments(root))
    assert archive(run, root, force=True).name == f"{before + 1:05d}-first-light"
    assert_whole(root, at_least=2)


def in_a_child(action: Callable[[], object]) -> str:
    """Do `action` in a process of its own; return the error that it ended with, "" for none."""
    results = FORK.SimpleQueue()

    def run() -> None:
        try:
            action()
            results.put("")
        except BaseException as error:
            results.put(f"{type(error).__name__}: {error}")

    process = FORK.Process(target=run)
    process.start()
    process.join(60)
    return results.get()


def test_a_file_that_does_not_fit_is_one_line_and_nothing_is_made(tmp_path):
    root = tmp_path / "experiments"
    run = make_run(tmp_path / "run")
    archive(run, root, name="before")
    names = sorted(path.name for path in root.iterdir())

    def with_limit(size: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        archive(run, root, force=True)

    endings = [in_a_child(lambda size=size: with_limit(size)) for size in (0, 10, 20, 50, 150, 180, 300, 1000)]
    assert all(ending.startswith("ArchiveError: ") and ending.endswith("file too large") for ending in endings)
    assert len({ending.partition("cannot")[2] for ending in endings}) > 1  # more than one place was reached
    assert sorted(path.name for path in root.iterdir()) == names
    assert_whole(root, at_least=1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_an_error_of_any_call_that_writes_leaves_the_archive_as_it_was(tmp_path, monkeypatch, code):
    root = tmp_path / "experiments"
    run = make_run(tmp_path / "run")
    archive(run, root, name="before")
    names = sorted(path.name for path in root.iterdir())
    calls = {"left": 0}

    def failing(call: Callable) -> Callable:
        def wrapped(*arguments, **options):
            calls["left"] -= 1
            if calls["left"] == 0:
                raise OSError(code, os.strerror(code))
            return call(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir"), (shutil, "copyfile")):
            patch.setattr(owner, name, failing(getattr(owner, name)))
        patch.setattr(Path, "write_text", failing(Path.write_text))
        done, errors = 0, []
        while True:
            calls["left"] = done + 1
            try:
                archive(run, root, name="after", force=True)
            except ArchiveError as error:
                errors.append(str(error))
            if calls["left"] > 0:
                break  # it was archived before the call that would have failed
            done += 1
            made = sorted(path.name for path in root.iterdir())
            # The last call writes the folder's entry to the disk: the experiment is whole by then.
            assert made in (names, sorted([*names, "00002-after"])), done
            if made != names:
                shutil.rmtree(root / "00002-after")
    # One call is of no consequence: the archive's own folder is there already.
    assert len(errors) == done - 1 > 20
    assert {error.rpartition(": ")[2] for error in errors} == {os.strerror(code).lower()}
    assert_whole(root, at_least=2)


def test_a_run_that_writes_while_it_is_copied_is_refused(tmp_path, monkeypatch):
    root = tmp_path / "experiments"
    run = make_run(tmp_path / "run")
    copy = shutil.copyfile

    def copy_and_append(source, target):
        copy(source, target)
        if Path(source).name == "status.json":
            with (run / "metrics.csv").open("a") as file:
                file.write("1,,,,,,,,,,,,,,\n")

    monkeypatch.setattr(shutil, "copyfile", copy_and_append)
    with pytest.raises(ArchiveError, match=r"metrics\.csv: changed while it was copied: the run is still at work"):
        archive(run, root)
    assert list(root.iterdir()) == []


def test_what_is_not_copied_may_change(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    (run / "wandb").mkdir()
    copy = shutil.copyfile

    def copy_and_log(source, target):
        copy(source, target)
        (run / "wandb" / "debug.log").write_text(str(source))

    monkeypatch.setattr(shutil, "copyfile", copy_and_log)
    assert archive(run, tmp_path / "experiments").name == "00001-first-light"


def test_an_archive_that_is_deleted_midway_is_one_line(tmp_path):
    root = tmp_path / "experiments"

    def report_and_delete(directory, title):
        write_small_report(directory, title)
        shutil.rmtree(root)

    with pytest.raises(ArchiveError, match="no such file or directory") as caught:
        archive(make_run(tmp_path / "run"), root, write_report=report_and_delete)
    assert "\n" not in str(caught.value) and not root.exists()


def test_a_file_or_a_link_with_a_number_takes_it(tmp_path):
    root = tmp_path / "experiments"
    root.mkdir()
    (root / "00004-note").write_text("")
    (root / "00007-elsewhere").symlink_to(tmp_path, target_is_directory=True)
    assert archive(make_run(tmp_path / "run"), root).name == "00008-first-light"
    assert [experiment.number for experiment in find_experiments(root)] == [8]


@pytest.mark.parametrize("force", [False, True])
def test_a_run_that_a_process_holds_is_refused_even_by_force(tmp_path, force):
    finished_run = make_run(tmp_path / "run")
    with RunDir.reopen(finished_run), pytest.raises(ArchiveError, match="a process is running in it"):
        archive(finished_run, tmp_path / "experiments", force=force)
    assert not (tmp_path / "experiments").exists()


def test_a_run_that_is_resumed_after_it_was_checked_is_refused(tmp_path, monkeypatch):
    finished_run = make_run(tmp_path / "run")
    root = tmp_path / "experiments"
    refuse_twice = store._refuse_twice

    def resume_first(*arguments) -> None:
        with RunDir.reopen(finished_run) as run:
            run.write_status("running")
        refuse_twice(*arguments)

    monkeypatch.setattr(store, "_refuse_twice", resume_first)
    with pytest.raises(ArchiveError, match=r"status\.json: changed while it was copied"):
        archive(finished_run, root)
    assert list(root.iterdir()) == []


def test_a_change_that_the_time_of_a_file_does_not_show_is_seen(tmp_path, monkeypatch):
    finished_run = make_run(tmp_path / "run")
    copyfile = shutil.copyfile

    def copy_and_change(source, target):
        copyfile(source, target)
        if Path(source).name == "metrics.csv":
            status, content = Path(source).stat(), Path(source).read_bytes()
            Path(source).write_bytes(content.replace(b"5.5", b"5.6"))
            os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))

    monkeypatch.setattr(shutil, "copyfile", copy_and_change)
    with pytest.raises(ArchiveError, match=r"metrics\.csv: changed while it was copied"):
        archive(finished_run, tmp_path / "experiments")
