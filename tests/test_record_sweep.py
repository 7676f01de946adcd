"""The plan of a sweep on disk, and what became of its jobs."""

import json
import os
import time
from pathlib import Path

import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.record.lock import is_held
from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import (
    describe,
    find_results,
    is_sweep,
    latest_result,
    read_state,
    read_sweep,
    short_keys,
    sweep_of,
    write_sweep,
)
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


def test_a_job_of_another_machine_counts_as_running_for_an_hour(tmp_path: Path) -> None:
    RunDir.claim(tmp_path / "run").close()
    path = tmp_path / "run" / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "another"}))
    assert read_state(tmp_path / "run").word == "running"
    os.utime(path, (time.time() - 3_700,) * 2)
    assert read_state(tmp_path / "run").word == "killed"


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


def write_status(directory: Path, started: str, ended: str | None, *, config: bool = True) -> Path:
    directory.mkdir(parents=True)
    (directory / "status.json").write_text(json.dumps({"state": "finished", "started": started, "ended": ended}))
    if config:
        (directory / "config.yaml").write_text("seed: 0\n")
    return directory


def test_a_run_knows_the_sweep_it_belongs_to(tmp_path: Path) -> None:
    sweep = read_sweep(write_banded_sweep(tmp_path / "sweep", widths=()))
    assert sweep_of(sweep.run_dir(sweep.jobs[0])) == sweep.path
    assert sweep_of(sweep.path) is None
    (sweep.path / "sweep.json").unlink()
    assert sweep_of(sweep.run_dir(sweep.jobs[0])) is None


def test_sweeps_are_found_whole_beside_runs_of_their_own(tmp_path: Path) -> None:
    write_banded_sweep(tmp_path / "sweeps" / "a", widths=())
    single = write_status(tmp_path / "2026" / "single", "2026-01-01T10:00:00.000Z", None)
    write_status(tmp_path / ".hidden" / "run", "2026-01-01T10:00:00.000Z", None)
    write_status(single / "nested", "2026-01-01T10:00:00.000Z", None)
    assert find_results(tmp_path) == [single, tmp_path / "sweeps" / "a"]
    assert find_results(tmp_path / "sweeps" / "a") == [tmp_path / "sweeps" / "a"]
    assert find_results(tmp_path / "nowhere") == []


def test_the_latest_result_is_the_last_to_start_or_end_and_damage_is_passed_over(tmp_path: Path) -> None:
    assert latest_result(tmp_path) is None
    ended = write_status(tmp_path / "a", "2026-01-01T10:00:00.000Z", "2026-01-01T12:00:00.000Z")
    write_status(tmp_path / "b", "2026-01-01T11:00:00.000Z", None)
    write_status(tmp_path / "refused", "2026-01-02T10:00:00.000Z", None, config=False)  # before it began
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "status.json").write_text("{")
    assert latest_result(tmp_path) == ended
    sweep = write_banded_sweep(tmp_path / "sweep", widths=())  # its runs ended in March
    assert latest_result(tmp_path) == sweep
    write_status(tmp_path / "april", "2026-04-01T10:00:00.000Z", None)
    assert latest_result(tmp_path) == tmp_path / "april"
    for job in read_sweep(sweep).jobs[-1:]:
        status = sweep / job.folder / "status.json"
        status.write_text(json.dumps(json.loads(status.read_text()) | {"ended": "2026-05-01T10:00:00.000Z"}))
    assert latest_result(tmp_path) == sweep


def test_settings_are_described_as_a_person_would_type_them() -> None:
    assert describe({"decay": 0.0, "rate": 3e-4, "task_position": None, "flag": True, "data": "pydocs"}) == (
        "decay=0 rate=0.0003 task_position=null flag=true data=pydocs"
    )


def test_a_key_is_as_short_as_it_stays_apart() -> None:
    assert short_keys(["optim.weight_decay", "seed"]) == {"optim.weight_decay": "weight_decay", "seed": "seed"}
    assert short_keys(["data.path", "model.path"]) == {"data.path": "data.path", "model.path": "model.path"}
