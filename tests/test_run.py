"""Whole runs of a tiny model, from the command line to the files they leave."""

import hashlib
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import ENGINES, QUIET, assert_same_state, numbers, run, status

from gpt2lab.data.shards import write_shard
from gpt2lab.engine import StepResult
from gpt2lab.engine.cuda.engine import CudaEngine
from gpt2lab.model.llmc import read_checkpoint
from gpt2lab.record.metrics import read_metrics
from gpt2lab.record.sweep import find_results
from gpt2lab.run import main


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
    assert provenance["model"]["n_params_active"] == provenance["model"]["n_params"] == 10_944  # 256 rows: no padding
    assert provenance["data"]["unigram_entropy"] == pytest.approx(3.14, abs=0.2)
    shown = capsys.readouterr().out
    assert "unigram entropy 3." in shown
    assert str(path) in shown


@pytest.mark.parametrize("engine", [ENGINES[0], pytest.param(ENGINES[1], marks=pytest.mark.slow)], ids=" ".join)
def test_losses_fall_and_rows_repeat_bit_by_bit(workplace, engine):
    overrides = [
        *QUIET,
        *engine,
        "train.max_steps=20",
        "schedule=constant",
        "optim.learning_rate=2e-2",
        "data.order=shuffled",
    ]
    first, second = run(*overrides), run(*overrides)
    assert numbers(first) == numbers(second)
    assert_same_state(first, second)
    rows = numbers(first)
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.5
    assert numbers(run(*overrides, "seed=1")) != rows


def test_the_device_is_waited_for_only_where_a_row_is_logged(workplace, monkeypatch):
    asked = []
    result = CudaEngine.result
    monkeypatch.setattr(CudaEngine, "result", lambda engine: asked.append(engine.step) or result(engine))
    overrides = [*QUIET, *ENGINES[1], "train.max_steps=9", "train.log_every=3", "train.eval_every=4"]
    path = run(*overrides)
    assert asked == [3, 4, 6, 8, 9]
    assert [row["step"] for row in numbers(path)] == [0, *asked]


@pytest.mark.parametrize("log_every", [1, 3])
def test_the_time_of_an_update_has_what_the_device_was_waited_for(workplace, monkeypatch, log_every):
    queued = 0

    def train_step(engine, inputs, targets, *, learning_rate):
        nonlocal queued
        queued += 1
        engine.step += 1

    def result(engine):
        nonlocal queued
        time.sleep(0.03 * queued)  # each update takes the device 30 ms
        queued = 0
        return StepResult(loss=1.0, grad_norm=1.0)

    monkeypatch.setattr(CudaEngine, "train_step", train_step)
    monkeypatch.setattr(CudaEngine, "result", result)
    overrides = [*QUIET, *ENGINES[1], "train.max_steps=9", f"train.log_every={log_every}", "train.eval_every=0"]
    rows = read_metrics(run(*overrides) / "metrics.csv")
    times = [row["step_ms"] for row in rows if row["step"] > 3]
    assert 30 <= min(times) < 60
    assert rows[-1]["elapsed_s"] >= 9 * 0.03


@pytest.mark.parametrize("engine", ENGINES, ids=" ".join)
def test_divergence_stops_before_the_update_with_exit_code_4(workplace, capsys, engine):
    path = run("debug=diverge", *QUIET, *engine, expect=4)
    error = capsys.readouterr().err
    for part in ("step ", "learning rate 1e+30", "gradient norm"):
        assert part in error
    assert error.count("\n") == 1
    assert status(path)["state"] == "failed"
    assert "not finite" in status(path)["reason"]


@pytest.mark.slow
def test_two_runs_of_the_same_second_get_two_directories(workplace):
    command = [sys.executable, "-m", "gpt2lab.run", *QUIET, "train.max_steps=1"]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(find_results(Path("runs"))) == 3


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


@pytest.mark.parametrize("engine", ENGINES, ids=" ".join)
def test_training_follows_llmc_from_the_command_line(workplace, golden, engine):
    shards = ["data=shards", f"data.train={golden}/train.bin", f"data.val={golden}/val.bin", "data.order=sequential"]
    shape = ["model.n_layer=2", "model.n_head=2", "model.n_embd=32", "model.max_seq_len=32", "model.vocab_size=96"]
    optim = ["optim.learning_rate=1e-3", "optim.beta2=0.999", "optim.decay=all", "optim.grad_clip=0"]
    batch = ["train.batch_size=4", "train.seq_len=16", "train.max_steps=40", "train.log_every=1", "schedule=constant"]
    rest = ["tracker=none", "archive.mode=off", "sample.count=0", f"model.init_from={golden}/model.bin"]
    path = run(*shards, *shape, *optim, *batch, *rest, *engine)
    losses = [row["train_loss"] for row in numbers(path)[1:]]
    np.testing.assert_allclose(losses, np.loadtxt(golden / "losses.txt"), rtol=0, atol=8 * 2**-24 * 4.7 * 8)


def test_a_model_broken_by_its_last_update_is_no_finished_run(workplace, capsys):
    path = run("debug=diverge", "sample.count=0", "train.max_steps=1", "archive.mode=auto", expect=4)
    assert "step 1: val_loss nan" in capsys.readouterr().err
    assert status(path)["state"] == "failed"
    assert not list(Path("experiments").glob("0*"))
    assert math.isnan(numbers(path)[-1]["val_loss"])


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (["data=modular", "model=grokking", "sample.count=1", "sample.prompt=hello"], 2, "'hello' is not a symbol"),
        (['train.stop_when="test_accuracy>=0.1"'], 2, "test_accuracy is not measured while this run trains"),
        (['train.stop_when="val_los<=1"'], 2, "val_los is no metric"),
        (["train.seq_len=16", "train.batch_size=100000"], 3, "train.batch_size"),
        (["hydra.run.dir=/dev/null/run"], 5, "/dev/null/run"),
        (["optim.learning_rate=nan"], 2, "optim.learning_rate=nan"),
        (["archive.mode=auto", "archive.root="], 2, "archive.root= is empty"),
        (["archive.mode=auto", "archive.root=taken"], 5, "taken/README.md is not a page that gpt2lab wrote"),
        (["archive.mode=auto", "archive.root=taken/README.md"], 5, "taken/README.md"),
        (["data=text", "data.path="], 2, "data.path= is empty"),
        (['name="  "'], 2, "name= is empty"),
        (["data=modular", "model=grokking", "data.tokenizer=gpt2"], 2, "data.source=modular does not use it"),
        (["model.init_from=taken"], 5, "taken/model.bin: missing"),
        (["tags=a"], 2, "tags=a: expected a list"),
        (["model.n_embd=1000000000"], 2, "model.n_embd=1000000000"),
    ],
)
def test_what_cannot_work_is_refused_before_training(workplace, capsys, overrides, code, words):
    Path("taken").mkdir()
    Path("taken/README.md").write_text("# My own page\n")
    assert main([*QUIET, *overrides]) == code
    assert Path("taken/README.md").read_text() == "# My own page\n"
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_the_test_split_is_measured_once_at_the_end(workplace):
    for name in ("train", "val", "test"):
        write_shard(Path(f"{name}.bin"), np.arange(2000) % 50)
    shards = ["data=shards", "data.train=train.bin", "data.val=val.bin", "data.test=test.bin", "data.tokenizer=bytes"]
    rows = numbers(run(*QUIET, *shards, "train.max_steps=4", "train.eval_every=2"))
    assert [row["test_loss"] is not None for row in rows] == [False, False, False, False, True]
    assert rows[-1]["test_loss"] == rows[-1]["val_loss"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bad_token_late_in_a_file_is_found_when_its_turn_comes(workplace, capsys, split):
    good, bad = np.zeros(16 * 4096 * 16 + 1), np.zeros(16 * 4096 * 16 + 1)  # sixteen batches
    bad[-5:] = 300  # beyond what is looked at when the file is opened
    write_shard(Path("good.bin"), good)
    write_shard(Path("bad.bin"), bad)
    files = [f"data.{name}={'bad' if name == split else 'good'}.bin" for name in ("train", "val")]
    whole = ["data.order=sequential", "train.eval_train=false", "train.batch_size=4096", "train.max_steps=16"]
    assert main([*QUIET, "data=shards", *files, "data.tokenizer=bytes", *whole]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "token 300 is outside the" in error


def test_an_init_checkpoint_gives_up_positions_it_does_not_need_and_is_recorded(workplace, capsys):
    first = run(*QUIET, "train.max_steps=2")
    second = run(*QUIET, "train.max_steps=0", "model.max_seq_len=8", f"model.init_from={first}/model.bin")
    params, shape = read_checkpoint(second / "model.bin")
    assert shape.max_seq_len == 8
    np.testing.assert_array_equal(params["wpe"], read_checkpoint(first / "model.bin")[0]["wpe"][:8])
    recorded = json.loads((second / "provenance.json").read_text())["model"]["init_from_sha256"]
    assert recorded == hashlib.sha256((first / "model.bin").read_bytes()).hexdigest()
    other = [*QUIET, "data=modular", "data.prime=23", f"model.init_from={first}/model.bin"]
    assert main(other) == 2
    assert "has a vocabulary of 256 tokens, this run one of 31" in capsys.readouterr().err
