"""A report that is written again: all of it or nothing of it."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2lab.archive.rewrite import rewrite_report
from gpt2lab.archive.verify import verify
from gpt2lab.errors import ArchiveError
from tests.test_store import archive, make_run, write_small_report


@pytest.fixture
def experiment(tmp_path) -> Path:
    return archive(make_run(tmp_path / "runs" / "a"), tmp_path / "experiments")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def longer_report(directory: Path, title: str) -> None:
    write_small_report(directory, title)
    (directory / "figures" / "loss.svg").unlink()
    (directory / "figures" / "new.svg").write_text("<svg/>")
    (directory / "README.md").write_text((directory / "notes.md").read_text())


def test_a_report_takes_the_place_of_the_earlier_one_and_the_record_stays(experiment):
    before = contents(experiment)
    (experiment / "notes.md").write_text("seen later")
    rewrite_report(experiment, "first light", longer_report)
    after = contents(experiment)
    assert after["README.md"] == b"seen later" == after["notes.md"]
    assert after.keys() ^ before.keys() == {"figures/loss.svg", "figures/new.svg"}
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert changed == {"README.md", "notes.md", "manifest.json"}
    assert verify(experiment, weights=True).faults == ()
    assert [path.name for path in experiment.parent.glob("*") if path.name != ".lock"] == [experiment.name]


def test_a_report_that_fails_midway_leaves_the_experiment_as_it_was(experiment):
    def torn(directory: Path, title: str) -> None:
        longer_report(directory, title)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(experiment)
    with pytest.raises(ArchiveError, match="00001-first-light: cannot write the report into: no space left") as caught:
        rewrite_report(experiment, "first light", torn)
    assert ".staging" not in str(caught.value)
    assert contents(experiment) == before and not list(experiment.parent.glob(".staging*"))


def test_a_full_disk_at_any_call_that_writes_leaves_a_sound_experiment(experiment, monkeypatch):
    calls = {"left": 0}

    def no_links(*_: object) -> None:
        raise OSError

    def failing(call: Callable) -> Callable:
        def wrapped(*arguments, **options):
            calls["left"] -= 1
            if calls["left"] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **options)

        return wrapped

    for owner, name in ((os, "fsync"), (os, "mkdir"), (shutil, "copyfile"), (Path, "write_text")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    monkeypatch.setattr(os, "link", no_links)  # so that every file is copied
    errors = []
    for count in range(1, 200):
        calls["left"] = count
        try:
            rewrite_report(experiment, "first light", longer_report)
        except ArchiveError as error:
            errors.append(str(error))
        done, calls["left"] = calls["left"] > 0, 0
        assert verify(experiment, weights=True).faults == ()
        if done:
            break
    assert done and len(errors) > 15 and all(error.endswith("no space left on device") for error in errors)
    assert verify(experiment, weights=True).faults == ()
