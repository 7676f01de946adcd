"""Whole runs of a tiny model, from the command line to the files they leave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpt2lab.model.llmc import read_checkpoint
from gpt2lab.record.metrics import TIMING_COLUMNS, read_metrics
from gpt2lab.record.rundir import find_runs
from gpt2lab.run import main
from gpt2lab.train.progress import Display

TINY = [
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=16",
    "model.max_seq_len=16",
    "train.batch_size=4",
    "train.eval_batches=2",
    "train.log_every=1",
    "sample.count=0",
    "archive.mode=off",
]
QUIET = [*TINY, "tracker=none"]


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty current directory, and no W&B account."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    return tmp_path


def run(*overrides: str, expect: int = 0) -> Path | None:
    """Run and return the directory of the run that appeared, if one did."""
    before = set(find_runs(Path("runs")))
    assert main(list(overrides)) == expect
    new = set(find_runs(Path("runs"))) - before
    return new.pop() if new else None


def numbers(run_dir: Path) -> list[dict]:
    """Return the rows of a run without what differs from one execution to the next."""
    rows = read_metrics(run_dir / "metrics.csv")
    return [{key: value for key, value in row.items() if key not in TIMING_COLUMNS} for row in rows]


def status(run_dir: Path) -> dict:
    return json.loads((run_dir / "status.json").read_text())


def assert_same_state(first: Path, second: Path) -> None:
    assert (first / "model.bin").read_bytes() == (second / "model.bin").read_bytes()
    one, other = (load_file(path / "state.safetensors") for path in (first, second))
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)


def stop_at(monkeypatch, step: int, number: signal.Signals) -> None:
    advance = Display.advance

    def advance_and_signal(self: Display, done: int) -> None:
        advance(self, done)
        if done == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Display, "advance", advance_and_signal)


def test_a_run_leaves_its_whole_record(workplace, capsys):
    path = run(*QUIET, "train.max_steps=4", "train.eval_every=2", "sample.count=2", "sample.max_tokens=5", "name=first")
    assert path.name.endswith("-first")
    for name in ("config.yaml", "overrides.yaml", "provenance.json", "metrics.csv", "model.bin", "source.tar.gz"):
        assert (path / name).is_file(), name
    assert len(list((path / "samples").iterdir())) == 2
    rows = read_metrics(path / "metrics.csv")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["tokens"] for row in rows] == [0, 64, 128, 192, 256]
    assert [row["val_loss"] is not None for row in rows] == [True, False, True, False, True]
    assert rows[0]["train_loss"] is None
    assert status(path)["state"] == "finished"
    assert status(path)["reason"] == "all 4 steps done"
    provenance = json.loads((path / "provenance.json").read_text())
    assert provenance["model"]["n_params_active"] < provenance["model"]["n_params"] + 1
    assert provenance["data"]["unigram_entropy"] == pytest.approx(3.14, abs=0.2)
    shown = capsys.readouterr().out
    assert "unigram entropy 3." in shown
    assert str(path) in shown


def test_losses_fall_and_rows_repeat_bit_by_bit(workplace):
    overrides = [*QUIET, "train.max_steps=30", "schedule=constant", "optim.learning_rate=1e-2", "data.order=shuffled"]
    first, second = run(*overrides), run(*overrides)
    assert numbers(first) == numbers(second)
    assert_same_state(first, second)
    rows = numbers(first)
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.5
    assert numbers(run(*overrides, "seed=1")) != rows


def test_twenty_and_twenty_steps_equal_forty_with_wandb_on(workplace):
    overrides = [*TINY, "schedule=constant", "train.eval_every=10", "sparsity=banded", "fc1_band=12"]
    straight = run(*overrides, "train.max_steps=40")
    halves = run(*overrides, "train.max_steps=20")
    assert main([f"resume={halves}", "train.max_steps=40"]) == 0
    assert numbers(halves) == numbers(straight)
    assert_same_state(halves, straight)
    assert [entry["step"] for entry in status(halves)["resumes"]] == [20]
    assert len(list((halves / "wandb").glob("offline-run-*"))) == 2
    assert status(halves)["tracker"] == "offline"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_the_rest_is_the_same_to_the_bit(workplace, monkeypatch, capsys, number):
    overrides = [*QUIET, "train.max_steps=12", "train.eval_every=5", "schedule.warmup_steps=3"]
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


def test_a_killed_run_continues_from_its_last_checkpoint(workplace):
    overrides = [*QUIET, "train.max_steps=400", "train.checkpoint_every=20", "train.eval_every=50"]
    straight = run(*overrides)
    process = subprocess.Popen([sys.executable, "-m", "gpt2lab.run", *overrides, "hydra.run.dir=killed"])
    deadline = time.monotonic() + 60
    while not Path("killed/state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert status(Path("killed"))["state"] == "running"
    assert main(["resume=killed"]) == 0
    assert status(Path("killed"))["resumes"][0]["step"] % 20 == 0
    assert numbers(Path("killed")) == numbers(straight)
    assert_same_state(Path("killed"), straight)


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
    assert "is not what it was" in capsys.readouterr().err


def test_divergence_stops_before_the_update_with_exit_code_4(workplace, capsys):
    path = run("debug=diverge", "sample.count=0", expect=4)
    error = capsys.readouterr().err
    for part in ("step ", "learning rate 1e+30", "gradient norm"):
        assert part in error
    assert error.count("\n") == 1
    assert status(path)["state"] == "failed"
    assert "not finite" in status(path)["reason"]


def test_two_runs_of_the_same_second_get_two_directories(workplace):
    command = [sys.executable, "-m", "gpt2lab.run", *QUIET, "train.max_steps=1"]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(find_runs(Path("runs"))) == 3


def test_a_directory_that_holds_a_run_is_not_used_again(workplace, capsys):
    assert main([*QUIET, "train.max_steps=1", "hydra.run.dir=here"]) == 0
    before = Path("here/metrics.csv").read_bytes()
    assert main([*QUIET, "train.max_steps=2", "hydra.run.dir=here"]) == 5
    assert "already holds a run" in capsys.readouterr().err
    assert Path("here/metrics.csv").read_bytes() == before


def test_stop_when_ends_a_run_early_with_a_final_evaluation(workplace):
    path = run(*QUIET, "train.max_steps=50", "train.eval_every=0", 'train.stop_when="step>=3"')
    rows = numbers(path)
    assert rows[-1]["step"] == 3
    assert rows[-1]["val_loss"] is not None
    assert status(path)["reason"] == "step>=3 reached: step is 3"


def test_a_time_limit_ends_a_run_and_saves_it(workplace):
    path = run(*QUIET, "train.max_steps=100000", "train.time_limit=0.2", "schedule=constant")
    assert "time limit of 0.2 s reached" in status(path)["reason"]
    assert status(path)["state"] == "finished"
    assert (path / "state.safetensors").exists()
    assert 0.2 <= status(path)["training_s"] < 5


def test_equations_learn_from_the_answer_alone(workplace):
    path = run("experiment=overfit_batch", "tracker=none", "sample.count=1")
    rows = numbers(path)
    assert rows[-1]["train_loss"] <= 0.01
    assert rows[-1]["train_accuracy"] == 1.0
    provenance = json.loads((path / "provenance.json").read_text())
    assert provenance["model"]["counted_positions"] == [4]
    assert provenance["model"]["batch_size"] == 32
    sample = (path / "samples" / "sample-1.txt").read_text()
    assert re.fullmatch(r"BOS \d+ \+ \d+ = -> \S+ \((right|expected \d+)\)\n", sample)


def test_bands_stay_exactly_zero_in_the_checkpoint(workplace):
    path = run(*QUIET, "train.max_steps=10", "sparsity=banded", "fc1_band=8", "fc2_band=0")
    params, _ = read_checkpoint(path / "model.bin")
    hidden, channel = np.meshgrid(np.arange(64), np.arange(16), indexing="ij")
    outside = np.abs(hidden - 4 * channel) > 4
    assert not params["fcw"][:, outside].any()
    assert params["fcw"][:, ~outside].all()
    assert params["fcprojw"].all()


def test_a_model_starts_from_an_earlier_checkpoint(workplace, capsys):
    first = run(*QUIET, "train.max_steps=20", "schedule=constant", "optim.learning_rate=1e-2")
    second = run(*QUIET, "train.max_steps=1", f"model.init_from={first}/model.bin")
    assert numbers(second)[0]["val_loss"] == numbers(first)[-1]["val_loss"]
    assert main([*QUIET, "model.n_embd=32", f"model.init_from={first}/model.bin"]) == 2
    assert f"model.n_embd=32, but model.init_from={first}/model.bin has 16" in capsys.readouterr().err


def test_token_files_with_ids_above_the_vocabulary_are_refused(workplace, capsys):
    header = np.zeros(256, dtype="<i4")
    header[:3] = (20240520, 1, 4000)
    tokens = np.full(4000, 300, dtype="<u2")
    Path("train.bin").write_bytes(header.tobytes() + tokens.tobytes())
    shards = ["data=shards", "data.train=train.bin", "data.val=train.bin", "data.tokenizer=bytes"]
    assert main([*QUIET, *shards]) == 3
    assert "token 300" in capsys.readouterr().err


def test_training_follows_llmc_from_the_command_line(workplace, golden):
    shards = ["data=shards", f"data.train={golden}/train.bin", f"data.val={golden}/val.bin", "data.order=sequential"]
    shape = ["model.n_layer=2", "model.n_head=2", "model.n_embd=32", "model.max_seq_len=32", "model.vocab_size=96"]
    optim = ["optim.learning_rate=1e-3", "optim.beta2=0.999", "optim.decay=all", "optim.grad_clip=0"]
    batch = ["train.batch_size=4", "train.seq_len=16", "train.max_steps=40", "train.log_every=1", "schedule=constant"]
    rest = ["tracker=none", "archive.mode=off", "sample.count=0", f"model.init_from={golden}/model.bin"]
    path = run(*shards, *shape, *optim, *batch, *rest)
    losses = [row["train_loss"] for row in numbers(path)[1:]]
    np.testing.assert_allclose(losses, np.loadtxt(golden / "losses.txt"), rtol=0, atol=8 * 2**-24 * 4.7 * 8)
