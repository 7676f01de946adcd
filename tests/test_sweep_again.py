"""Sweeps that are started again: what runs, what stays, and what is never mixed in."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import QUIET, assert_same_state, numbers, status, stop_at
from tiny_sweeps import SHORT, started, sweeps, words

from gpt2lab.record.rundir import RunDir
from gpt2lab.record.sweep import read_state, read_sweep
from gpt2lab.run import main


def test_the_same_sweep_again_runs_nothing(workplace):
    for _ in range(2):
        assert main(["-m", *SHORT, "seed=5,6"]) == 0
    [sweep] = sweeps()
    before = started(sweep)
    assert main(["-m", *SHORT, "seed=6,5"]) == 0  # the same jobs in another order
    assert started(sweeps()[0]) == before[::-1]


@pytest.mark.slow
def test_a_changed_config_is_another_sweep(workplace):
    assert main(["-m", *SHORT, "seed=5,6"]) == 0
    assert main(["-m", *SHORT, "seed=5,6", "optim.beta2=0.9"]) == 0
    assert len(sweeps()) == 2


def test_a_larger_grid_in_the_same_directory_runs_what_is_new(workplace, capsys):
    assert main(["-m", *SHORT, "seed=5,6", "hydra.sweep.dir=s"]) == 0
    before = started(read_sweep(Path("s")))
    assert main(["-m", *SHORT, "seed=6,7", "hydra.sweep.dir=s"]) == 0
    sweep = read_sweep(Path("s"))
    assert [(job.number, job.values["seed"]) for job in sweep.jobs] == [(1, 6), (2, 7)]
    assert started(sweep)[0] == before[1]
    assert "s/runs/0-seed=5 is not a job of this grid: kept, but not counted" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failed_job_does_not_stop_the_others_and_is_tried_again_when_asked(workplace, capsys):
    grid = ["-m", *SHORT, "optim.learning_rate=1e-3,1e12", "optim.grad_clip=0", "schedule=constant", "seed=5,6"]
    assert main(grid) == 4
    assert words(sweeps()[0]) == ["finished", "finished", "diverged", "diverged"]
    shown = capsys.readouterr()
    assert "4 jobs, 2 finished, 2 diverged" in shown.out
    assert "  job 2  optim.learning_rate=1e+12 seed=5  diverged: step " in shown.out
    before = started(sweeps()[0])
    assert main(grid) == 4
    assert started(sweeps()[0]) == before
    assert main([*grid, "sweep.mode=retry_failed"]) == 4
    [sweep] = sweeps()
    assert [a == b for a, b in zip(started(sweep), before, strict=True)] == [True, True, False, False]
    assert sweep.jobs[2].folder.endswith("+2")


@pytest.mark.slow
def test_force_runs_everything_anew_and_keeps_what_was(workplace):
    assert main(["-m", *SHORT, "seed=5,6"]) == 0
    assert main(["-m", *SHORT, "seed=5,6", "sweep.mode=force"]) == 0
    first, second = sweeps()
    assert first.sweep_id != second.sweep_id
    assert words(first) == words(second) == ["finished"] * 2


def test_ctrl_c_stops_the_sweep_and_the_same_command_goes_on_to_the_same_bits(workplace, monkeypatch, capsys):
    grid = ["-m", *QUIET, "train.max_steps=9", "train.eval_every=0", "seed=5,6"]
    assert main([*grid, "hydra.sweep.dir=whole"]) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 4, signal.SIGINT)
        assert main(grid) == 130
    assert words(sweeps()[0]) == ["interrupted", "not started"]
    assert "(as it is: gpt2lab snapshot runs/sweeps/" in capsys.readouterr().out
    assert main(grid) == 0
    [sweep] = sweeps()
    whole = read_sweep(Path("whole"))
    for job, same in zip(sweep.jobs, whole.jobs, strict=True):
        assert numbers(sweep.run_dir(job)) == numbers(whole.run_dir(same))
        assert_same_state(sweep.run_dir(job), whole.run_dir(same))


def test_a_sweep_can_be_resumed_by_its_directory(workplace, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        assert main(["-m", *SHORT, "seed=5,6"]) == 130
    [sweep] = sweeps()
    assert main([f"resume={sweep.path}"]) == 0
    assert words(sweeps()[0]) == ["finished"] * 2


@pytest.mark.slow
def test_a_killed_sweep_goes_on_from_its_last_checkpoint(workplace):
    steps = ["train.max_steps=400", "train.checkpoint_every=20", "train.eval_every=0", "schedule=constant"]
    grid = ["-m", *QUIET, *steps, "seed=5,6", "hydra.sweep.dir=s"]
    process = subprocess.Popen([sys.executable, "-m", "gpt2lab.run", *grid], stdout=subprocess.DEVNULL)
    first = Path("s/runs/0-seed=5")
    while not (first / "state.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert read_state(first).word == "killed"
    assert main(grid) == 0
    assert status(first)["resumes"][0]["step"] >= 20
    assert [row["step"] for row in numbers(first)] == list(range(401))


@pytest.fixture
def checkout(workplace, monkeypatch) -> Path:
    """The source that runs, as far as its hashes tell."""
    files = ("gpt2lab/__init__.py", "gpt2lab/train/loop.py", "gpt2lab/report/readme.py", "README.md", "cuda/gelu.cu")
    for name in files:
        (workplace / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (workplace / "checkout" / name).write_text(name)
    for module in ("sweep.run", "sweep.worker", "train.facts", "train.resume"):
        monkeypatch.setattr(f"gpt2lab.{module}.find_source_root", lambda: workplace / "checkout")
    return workplace / "checkout"


@pytest.mark.slow
def test_a_sweep_goes_on_after_an_edit_of_the_readme_and_mixes_no_other_code(checkout, monkeypatch, capsys):
    grid = ["-m", *SHORT, "seed=5,6", "hydra.sweep.dir=s"]
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        assert main(grid) == 130
    (checkout / "README.md").write_text("other words")
    (checkout / "gpt2lab/report/readme.py").write_text("another page")
    assert main(grid) == 0
    sweep = read_sweep(Path("s"))
    assert not any("+" in job.folder for job in sweep.jobs) and words(sweep) == ["finished"] * 2
    assert status(sweep.run_dir(sweep.jobs[0]))["resumes"][0]["changed"] == []
    records = [RunDir(sweep.run_dir(job)).read_provenance() for job in sweep.jobs]
    assert len({record["source_hash"] for record in records}) == 2
    assert len({record["code_hash"] for record in records}) == 1
    (checkout / "gpt2lab/train/loop.py").write_text("other steps")
    assert main(grid) == 0
    assert [job.folder for job in read_sweep(Path("s")).jobs] == ["runs/0-seed=5+2", "runs/1-seed=6+2"]
    assert status(Path("s/runs/0-seed=5"))["state"] == "finished"
    assert "job 0 (seed=5) runs again: the code has changed since" in capsys.readouterr().out


@pytest.mark.slow
def test_a_job_that_was_resumed_by_hand_with_other_code_runs_again(checkout, capsys):
    grid = ["-m", *SHORT, "seed=5,6", "hydra.sweep.dir=s"]
    assert main(grid) == 0
    (checkout / "gpt2lab/train/loop.py").write_text("other steps")
    assert main(['resume="s/runs/0-seed=5"']) == 0
    (checkout / "gpt2lab/train/loop.py").write_text("gpt2lab/train/loop.py")
    assert main(grid) == 0
    assert [job.folder for job in read_sweep(Path("s")).jobs] == ["runs/0-seed=5+2", "runs/1-seed=6"]
    assert "job 0 (seed=5) runs again: the code has changed since" in capsys.readouterr().out


def test_a_job_does_not_run_on_code_that_changed_since_the_sweep_began(workplace, monkeypatch):
    hashes = iter(["1" * 64, "2" * 64])
    monkeypatch.setattr("gpt2lab.sweep.run.code_hash", lambda root: "1" * 64)
    monkeypatch.setattr("gpt2lab.sweep.worker.code_hash", lambda root: next(hashes))
    assert main(["-m", *SHORT, "seed=5,6"]) == 2
    [sweep] = sweeps()
    assert words(sweep) == ["finished", "failed"]
    assert (
        read_state(sweep.run_dir(sweep.jobs[1])).reason == "the code changed while the sweep ran: start the sweep again"
    )


@pytest.mark.slow
def test_other_data_of_the_same_name_is_another_sweep(workplace):
    Path("text.txt").write_text("one fine day in the middle of the night " * 200)
    grid = ["-m", *SHORT, "data=text", "data.path=text.txt", "seed=5,6"]
    assert main(grid) == 0
    Path("text.txt").write_text("two dead boys got up to fight again and " * 200)
    assert main(grid) == 0
    first, second = sweeps()
    assert first.jobs[0].config_hash == second.jobs[0].config_hash
    assert first.jobs[0].files != second.jobs[0].files
    assert words(first) == words(second) == ["finished"] * 2


def test_a_grid_over_data_files_runs_each(workplace):
    for name in "ab":
        Path(f"{name}.txt").write_text(f"{name} fine day in the middle of the night " * 200)
    assert main(["-m", *SHORT, "data=text", "data.path=a.txt,b.txt"]) == 0
    assert [job.values for job in sweeps()[0].jobs] == [{"data.path": "a.txt"}, {"data.path": "b.txt"}]


@pytest.mark.slow
def test_starting_weights_are_known_by_their_content(workplace):
    assert main([*SHORT, "hydra.run.dir=w", "seed=1"]) == 0
    Path("copy.bin").write_bytes(Path("w/model.bin").read_bytes())
    grid = ["-m", *SHORT, "model.init_from=w,w/model.bin,copy.bin", "hydra.sweep.dir=s"]
    assert main(grid) == 0
    assert [job.values["model.init_from"] for job in read_sweep(Path("s")).jobs] == ["w", "copy.bin"]
    before = started(read_sweep(Path("s")))
    assert main([*SHORT, "hydra.run.dir=v", "seed=2"]) == 0
    Path("copy.bin").write_bytes(Path("v/model.bin").read_bytes())
    assert main(grid) == 0
    sweep = read_sweep(Path("s"))
    assert [job.number for job in sweep.jobs] == [0, 2]
    assert started(sweep)[0] == before[0]


def test_a_forced_sweep_that_was_stopped_goes_on_where_it_stopped(workplace, monkeypatch, capsys):
    grid = ["-m", *SHORT, "seed=5,6", "sweep.mode=force"]
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        assert main(grid) == 130
    [sweep] = sweeps()
    assert f"continue python -m gpt2lab.run resume={sweep.path}" in capsys.readouterr().out
    assert main([f"resume={sweep.path}"]) == 0
    [sweep] = sweeps()
    assert [job.folder.endswith("+2") for job in sweep.jobs] == [False, False]
    assert words(sweep) == ["finished"] * 2


@pytest.mark.slow
def test_a_checkpoint_that_is_damaged_fails_its_job_and_can_be_retried(workplace, monkeypatch):
    grid = ["-m", *SHORT, "seed=5"]
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        assert main(grid) == 130
    first = sweeps()[0].run_dir(sweeps()[0].jobs[0])
    (first / "state.safetensors").write_bytes(b"no checkpoint")
    assert main(grid) == 5
    assert "state.safetensors" in str(read_state(first).reason)
    assert read_state(first).word == "failed"
    assert main([*grid, "sweep.mode=retry_failed"]) == 0
    assert words(sweeps()[0]) == ["finished"]


def test_asking_about_a_sweep_runs_nothing(workplace, capsys):
    assert main(["-m", *SHORT, "seed=5,6"]) == 0
    before = started(sweeps()[0])
    assert main([f"resume={sweeps()[0].path}", "--cfg", "job"]) == 0
    assert started(sweeps()[0]) == before


def test_an_archived_sweep_is_not_run_on(workplace, capsys):
    grid = ["-m", *[item for item in SHORT if item != "archive.mode=off"], "seed=5,6"]
    assert main(grid) == 0
    for again in ("resume=experiments/00001-mini-pydocs", "hydra.sweep.dir=experiments/00001-mini-pydocs"):
        assert main([*grid, "seed=5,6,7", again]) == 2
    assert not (Path("experiments/00001-mini-pydocs") / ".lock").exists()
    assert main(grid) == 0
    assert "archived already as experiments/00001-mini-pydocs" in capsys.readouterr().out


def test_a_sweep_goes_on_as_it_was_planned_or_not_at_all(workplace, monkeypatch, capsys):
    grid = ["-m", *SHORT, "hydra/launcher=basic", "seed=5,6"]
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        assert main(grid) == 130
    [sweep] = sweeps()
    before = (sweep.path / "sweep.json").read_bytes()
    assert main([f"resume={sweep.path}", "seed=5"]) == 2
    assert "a sweep is continued with its original settings: leave seed=5 out" in capsys.readouterr().err
    assert (sweep.path / "sweep.json").read_bytes() == before
    assert main([f"resume={sweep.path}", "sweep.fail_fast=true", "hydra/launcher=basic"]) == 0
    assert words(sweeps()[0]) == ["finished"] * 2
