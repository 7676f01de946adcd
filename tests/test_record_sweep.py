"""The plan of a sweep on disk, and what became of its jobs."""

import json
import os
from pathlib import Path

import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.record.lock import is_held
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import is_sweep, read_state, read_sweep, write_sweep
from tests.sweep_records import write_banded_sweep, write_grokking_sweep


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    sweep = read_sweep(write_banded_sweep(tmp_path / "sweep"))
    assert len(sweep.jobs) == 21 and sweep.varies == ("fc1_band", "fc2_band", "seed")
    before = (sweep.path / "sweep.json").read_bytes()
    write_sweep(sweep)
    assert (sweep.path / "sweep.json").read_bytes() == before
    assert is_sweep(sweep.path) and not is_sweep(sweep.run_dir(sweep.jobs[0]))


def test_the_state_of_each_job_comes_from_its_own_directory(tmp_path: Path) -> None:
    sweep = read_sweep(write_grokking_sweep(tmp_path / "sweep"))
    words = [read_state(sweep.run_dir(job)).word for job in sweep.jobs]
    assert words.count("finished") == 15
    assert (words[2], words[7], words[17]) == ("diverged", "interrupted", "not started")
    assert read_state(sweep.run_dir(sweep.jobs[2])).reason == "loss nan at step 80"


def test_a_job_is_running_while_its_process_holds_it_and_killed_after(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = RunDir.claim(path)
    child = os.fork()  # a lock is known to another process only
    if child == 0:
        os._exit(0 if read_state(path).word == "running" and is_held(path) else 1)
    assert os.waitpid(child, 0)[1] == 0
    run.close()
    assert not is_held(path) and read_state(path).word == "killed"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version '2', and this gpt2lab reads version 1"),
        ({"jobs": []}, "expected jobs with a number"),
        ({"jobs": None}, "does not hold the plan"),
        ({"extra": 1}, "does not hold the plan"),
        ({"jobs": [{"number": 0}]}, "does not hold the plan"),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, change: dict, says: str) -> None:
    path = write_banded_sweep(tmp_path / "sweep") / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArchiveError, match=says):
        read_sweep(path.parent)


@pytest.mark.parametrize("folder", ["../outside", "runs/../../x", "/etc", "runs/.hidden", "runs/a/b", "runs/", "x", 3])
def test_a_plan_that_leaves_its_directory_is_refused(tmp_path: Path, folder: object) -> None:
    path = write_banded_sweep(tmp_path / "sweep") / "sweep.json"
    plan = json.loads(path.read_text())
    plan["jobs"][1]["folder"] = folder
    path.write_text(json.dumps(plan))
    with pytest.raises(ArchiveError, match="is not one below runs/"):
        read_sweep(path.parent)
