"""Runs that stop and go on: nothing is lost, and the numbers are those of a run that never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_runs import ENGINES, QUIET, TINY, assert_same_state, numbers, run, status, stop_at

from gpt2lab.record.metrics import read_metrics
from gpt2lab.run import main


@pytest.mark.parametrize("engine", [ENGINES[0], pytest.param(ENGINES[1], marks=pytest.mark.slow)], ids=" ".join)
def test_ten_and_ten_steps_equal_twenty_with_wandb_on(workplace, engine):
    overrides = [*TINY, *engine, "schedule=constant", "train.eval_every=5", "sparsity=banded", "fc1_band=12"]
    straight = run(*overrides, "train.max_steps=20")
    halves = run(*overrides, "train.max_steps=10")
    assert main([f"resume={halves}", "train.max_steps=20"]) == 0
    assert numbers(halves) == numbers(straight)
    assert_same_state(halves, straight)
    assert [entry["step"] for entry in status(halves)["resumes"]] == [10]
    assert len(list((halves / "wandb").glob("offline-run-*"))) == 2
    assert status(halves)["tracker"] == "offline"


@pytest.mark.parametrize("engine", ENGINES, ids=" ".join)
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_saves_the_state_and_the_rest_is_the_same_to_the_bit(workplace, monkeypatch, capsys, number, engine):
    overrides = [*QUIET, *engine, "train.max_steps=12", "train.eval_every=5", "schedule.warmup_steps=3"]
    straight = run(*overrides)
    with monkeypatch.context() as patch:
        stop_at(patch, 7, number)
        stopped = run(*overrides, expect=130)
    assert (status(stopped)["state"], status(stopped)["reason"]) == ("interrupted", f"stopped by {number.name}")
    assert f"resume={stopped}" in capsys.readouterr().out
    assert main([f"resume={stopped}"]) == 0
    assert numbers(stopped) == numbers(straight)
    assert_same_state(stopped, straight)
    assert status(stopped)["state"] == "finished"


@pytest.mark.slow
def test_a_killed_run_continues_from_its_last_checkpoint(workplace):
    overrides = [*QUIET, "train.max_steps=400", "train.checkpoint_every=20", "train.eval_every=50"]
    straight = run(*overrides)
    process = subprocess.Popen([sys.executable, "-m", "gpt2lab.run", *overrides, "hydra.run.dir=killed"])
    deadline = time.monotonic() + 300
    while not Path("killed/state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert status(Path("killed"))["state"] == "running"
    assert main(["resume=killed"]) == 0
    [entry] = status(Path("killed"))["resumes"]
    assert 0 < entry["step"] < 400
    assert entry["step"] % 20 == 0
    assert numbers(Path("killed")) == numbers(straight)
    assert_same_state(Path("killed"), straight)


def test_a_run_with_an_older_header_continues_to_the_bit_and_loses_nothing(workplace):
    overrides = [*QUIET, "data=modular", "data.prime=11", "schedule=constant", "train.eval_every=2"]
    straight = run(*overrides, "train.max_steps=8")
    halves = run(*overrides, "train.max_steps=4")
    metrics = halves / "metrics.csv"
    older = ("step", "val_loss", "train_loss", "removed_metric", "elapsed_s")
    before = read_metrics(metrics)
    lines = [[repr(row[name]) if row.get(name) is not None else "" for name in older] for row in before]
    metrics.write_text("".join(f"{','.join(line)}\n" for line in [older, *lines]))
    assert main([f"resume={halves}", "train.max_steps=8"]) == 0
    assert_same_state(halves, straight)
    expected, rows = numbers(straight), numbers(halves)
    kept = ("step", "val_loss", "train_loss")
    assert [[row[name] for name in kept] for row in rows] == [[row[name] for name in kept] for row in expected]
    assert [row["grad_norm"] for row in rows[:5]] == [None] * 5  # what the older header had no place for
    assert [{**row, "removed_metric": None} for row in expected[5:]] == rows[5:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.n_embd=32", "model.n_embd=32 (was 16)"),
        ("seed=5", "seed=5 (was 0)"),
        ("train.batch_size=8", "train.batch_size=8 (was 4)"),
        ("train.max_steps=9", "the learning rates of schedule=cosine depend on it"),
    ],
)
def test_a_run_is_not_continued_with_another_config(workplace, capsys, change, words):
    path = run(*QUIET, "train.max_steps=4")
    before = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    assert main([f"resume={path}", change]) == 2
    assert words in capsys.readouterr().err
    assert {file: file.read_bytes() for file in before} == before


def test_an_experiment_is_not_resumed(workplace, capsys):
    overrides = [item for item in QUIET if item != "archive.mode=off"]
    run(*overrides, "train.max_steps=2", "name=done")
    assert main(["resume=experiments/00001-done", "train.max_steps=4"]) == 2
    assert "resume the run directory that it was made from" in capsys.readouterr().err


def test_a_finished_run_with_nothing_left_to_do_stays_what_it_is(workplace):
    path = run(*QUIET, "train.max_steps=4")
    rows = numbers(path)
    assert main([f"resume={path}"]) == 0
    assert numbers(path) == rows
    assert status(path)["state"] == "finished"


@pytest.mark.parametrize("damage", ["truncated", "missing", "other model"])
def test_a_half_written_checkpoint_is_refused(workplace, capsys, damage):
    path = run(*QUIET, "train.max_steps=4", "schedule=constant")
    state, model = path / "state.safetensors", path / "model.bin"
    if damage == "truncated":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "missing":
        state.unlink()
    else:
        model.write_bytes(model.read_bytes()[:-4] + b"\1\2\3\4")
    assert main([f"resume={path}", "train.max_steps=8"]) == 5
    error = capsys.readouterr().err
    assert error.startswith("gpt2lab: ")
    assert error.count("\n") == 1
    assert str(path) in error


def test_a_run_on_changed_data_is_not_continued(workplace, capsys):
    Path("corpus.txt").write_text("to be or not to be " * 200)
    path = run(*QUIET, "data=text", "data.path=corpus.txt", "train.max_steps=4", "schedule=constant")
    Path("corpus.txt").write_text("that is the question " * 200)
    assert main([f"resume={path}", "train.max_steps=8"]) == 3
    assert "has changed since the run began" in capsys.readouterr().err


def test_a_refused_continuation_leaves_the_run_what_it_was(workplace, capsys):
    Path("corpus.txt").write_text("to be or not to be " * 200)
    path = run(*QUIET, "data=text", "data.path=corpus.txt", "train.max_steps=4", "schedule=constant")
    before = {file: file.read_bytes() for file in path.iterdir() if file.is_file() and file.name != ".lock"}
    assert main([f"resume={path}", "train.max_steps=2"]) == 2
    Path("corpus.txt").write_text("that is the question " * 200)
    assert main([f"resume={path}", "train.max_steps=8"]) == 3
    Path("corpus.txt").unlink()
    assert main([f"resume={path}", "train.max_steps=8"]) == 3
    assert {file: file.read_bytes() for file in before} == before


def test_a_longer_run_records_how_long_it_was_to_be(workplace):
    path = run(*QUIET, "train.max_steps=4", "schedule=constant")
    assert main([f"resume={path}", "train.max_steps=8"]) == 0
    assert yaml.safe_load((path / "config.yaml").read_text())["train"]["max_steps"] == 8
    overrides = yaml.safe_load((path / "overrides.yaml").read_text())
    assert "train.max_steps=8" in overrides
    assert not any(item.startswith(("resume=", "train.max_steps=4", "hydra.")) for item in overrides)
    [entry] = status(path)["resumes"]
    assert (entry["step"], entry["max_steps_before"], entry["changed"]) == (4, 4, [])
    assert main([f"resume={path}"]) == 0  # as it stands now


def test_rows_behind_the_checkpoint_are_measured_again(workplace):
    overrides = [*QUIET, "schedule=constant", "train.log_every=1", "train.eval_every=2"]
    straight = run(*overrides, "train.max_steps=4")
    killed = run(*overrides, "train.max_steps=2")
    later = (straight / "metrics.csv").read_bytes().splitlines(keepends=True)[4:]
    with (killed / "metrics.csv").open("ab") as file:
        file.writelines(later)  # of steps 3 and 4, which a killed process did after its last checkpoint
    assert main([f"resume={killed}", "train.max_steps=4"]) == 0
    assert numbers(killed) == numbers(straight)


def test_a_continuation_says_what_is_not_as_it_was(workplace, capsys):
    path = run(*QUIET, "train.max_steps=4", "schedule=constant")
    provenance = json.loads((path / "provenance.json").read_text())
    provenance["engine"]["threads"] += 7
    provenance["code_hash"] = "0" * 64
    (path / "provenance.json").write_text(json.dumps(provenance))
    capsys.readouterr()
    assert main([f"resume={path}", "train.max_steps=5"]) == 0
    shown = capsys.readouterr().out
    assert "threads is" in shown
    assert "the code has changed" in shown
    assert len(status(path)["resumes"][0]["changed"]) == 2
    assert main([f"resume={path}", "train.max_steps=6"]) == 0
    assert "the code has changed" not in capsys.readouterr().out  # since the last time


@pytest.mark.slow
def test_a_run_that_went_on_after_it_was_archived_is_archived_again(workplace, capsys):
    overrides = [item for item in QUIET if item != "archive.mode=off"]
    path = run(*overrides, "train.max_steps=4", "schedule=constant", "name=long")
    assert main([f"resume={path}", "train.max_steps=8"]) == 0
    assert sorted(folder.name for folder in Path("experiments").glob("0*")) == ["00001-long", "00002-long"]
    assert "Continued from step 4" in Path("experiments/00002-long/README.md").read_text()
    assert main([f"resume={path}"]) == 0  # nothing new to archive
    assert "archived already as experiments/00002-long" in capsys.readouterr().out
    assert len(list(Path("experiments").glob("0*"))) == 2


def test_a_job_of_a_sweep_continues_as_a_run_of_its_own(workplace, capsys):
    shrunk = [*QUIET, "hydra.sweep.dir=sweep", "fc1_band=0,4", "fc2_band=0", "seed=1"]
    assert main(["experiment=banded_comparison", *shrunk, "train.max_steps=2", "schedule=constant"]) == 0
    dense, banded = Path("sweep/runs/0-fc1_band=0"), Path("sweep/runs/1-fc1_band=4")
    assert main([f"resume='{banded}'", "train.max_steps=3"]) == 0
    assert numbers(banded)[-1]["step"] == 3
    assert numbers(dense)[-1]["step"] == 2
    assert main(["-m", f"resume='{banded}'"]) == 2
    assert "resume one run at a time" in capsys.readouterr().err


def test_an_interrupted_run_names_the_step_it_saved(workplace, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 7, signal.SIGINT)
        path = run(*QUIET, "train.max_steps=12", "train.log_every=5", expect=130)
    assert "interrupted at step 7" in capsys.readouterr().out
    assert status(path)["step"] == 7
    assert (path / "state.safetensors").exists()


def test_a_signal_while_the_data_is_read_stops_at_once(workplace, monkeypatch):
    def interrupt(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        raise AssertionError("the signal was put off")

    monkeypatch.setattr("gpt2lab.train.setup.read_source", interrupt)
    path = run(*QUIET, "train.max_steps=4", expect=130)
    assert status(path)["state"] == "interrupted"
    assert not (path / "metrics.csv").exists()


def test_the_signal_handlers_of_others_are_put_back(workplace):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(*QUIET, "train.max_steps=1")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_time_limit_counts_each_session_anew(workplace):
    path = run(*QUIET, "train.max_steps=100000", "train.time_limit=0.2", "schedule=constant")
    first = status(path)["step"]
    assert main([f"resume={path}"]) == 0
    assert status(path)["step"] > first
    assert status(path)["training_s"] >= 0.4


def test_moments_outside_the_band_are_refused_by_name(workplace, capsys):
    stopped = run(*QUIET, "sparsity=banded", "fc1_band=12", "fc2_band=12", "schedule=constant", "train.max_steps=2")
    file = stopped / "state.safetensors"
    with safe_open(file, "numpy") as state:
        arrays, meta = {name: state.get_tensor(name) for name in state.keys()}, state.metadata()  # noqa: SIM118
    arrays["v.fcw"] = np.ones_like(arrays["v.fcw"])
    save_file(arrays, file, meta)
    capsys.readouterr()
    assert main([f"resume={stopped}", "train.max_steps=4"]) == 5
    [message] = capsys.readouterr().err.splitlines()
    assert "state.safetensors: v.fcw is not zero outside the band" in message
