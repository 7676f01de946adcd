"""`gpt2lab evaluate` on a chain of tiny models that were really trained, one from the other."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpt2lab.data.shards import write_shard
from gpt2lab.record.metrics import read_metrics
from gpt2lab.run import main as run_main
from tests.tiny_runs import TINY

ALPHABET = "abcdefghijklmnopqrstuvwxyz "
TASKS = ("--on", "letters: data=text data.path=letters.txt", "--on", "digits: data=text data.path=digits.txt")
SHORT = [override for override in TINY if not override.startswith("archive.")] + [
    "tracker=none",
    "train.max_steps=150",
    "train.eval_batches=null",
    "optim.learning_rate=1e-2",
]


def train(name: str, *overrides: str) -> None:
    assert run_main([*SHORT, *overrides, f"name={name}", f"hydra.run.dir=runs/{name}"]) == 0


@pytest.fixture(scope="module")
def trained_chain(tmp_path_factory) -> Path:
    """Two texts, experiments 1 letters and 2 digits, started from 1; runs/sums, equations; runs/short, half as long."""
    folder = tmp_path_factory.mktemp("chain")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("letters.txt").write_text(ALPHABET * 60)
        Path("digits.txt").write_text("0123456789\n" * 150)
        train("letters", "data=text", "data.path=letters.txt")
        train("digits", "data=text", "data.path=digits.txt", "model.init_from=1")
        loose = ["archive.mode=off", "train.max_steps=1"]
        train("sums", "data=modular", "data.prime=7", "task_position=4", *loose)
        train("short", "data=text", "data.path=letters.txt", "train.seq_len=8", *loose)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def chain(trained_chain, tmp_path, monkeypatch) -> Path:
    """A copy of it as the current directory."""
    shutil.copytree(trained_chain, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(command, *arguments: str) -> dict:
    return json.loads(command("evaluate", *arguments, "--json")[0])


def last_row(name: str) -> dict:
    return read_metrics(Path("runs") / name / "metrics.csv")[-1]


@pytest.mark.slow
def test_a_chain_forgets_its_first_task(chain, command):
    record = evaluate(command, "1", "2", *TASKS)
    own, other = record["matrices"]["loss"]
    assert own[0] < 1.0 < own[1]  # letters learned, digits never seen
    assert other[1] < own[1]
    measures = record["chain"]["loss"]
    assert measures["forgetting"] == [pytest.approx(other[0] - own[0]), None]
    assert measures["retention"][0] == pytest.approx(np.exp(own[0] - other[0]))
    assert record["findings"][0]["verdict"] == "letters: forgotten"
    # Each was trained on its task and started from the one before: nothing but the missing seeds to warn of.
    assert record["notes"] == ["Each row is one model, so nothing here says how much another seed would differ."]


def test_a_loss_is_the_one_that_the_run_measured_itself(chain, command):
    record = evaluate(command, "letters", "digits", *TASKS)
    for number, name in enumerate(("letters", "digits")):
        row = last_row(name)
        assert record["matrices"]["loss"][number][number] == pytest.approx(row["val_loss"], rel=1e-5)
        assert record["matrices"]["accuracy"][number][number] == pytest.approx(row["val_accuracy"], abs=1e-4)


def test_the_loss_mask_of_the_run_counts_here_too(chain, command):
    [row] = evaluate(command, "runs/sums", "--on", "data=modular")["measurements"]
    assert row["loss"] == pytest.approx(last_row("sums")["val_loss"], rel=1e-5)
    assert (row["bits_per_byte"], row["tokens"]) == (None, 25)  # 49 equations, half of them for validation


def test_bytes_are_bits_per_byte(chain, command):
    [row] = evaluate(command, "1", "--on", "data=text data.path=letters.txt")["measurements"]
    assert row["bits_per_byte"] == pytest.approx(row["loss"] / np.log(2))
    assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
    assert row["tokens"] == 160  # the last tenth is 162 characters: ten windows of 16 and their last target


def test_a_few_batches_are_the_first_ones_of_the_split(chain, command):
    [row] = evaluate(command, "1", "--on", "data=text", "--batches", "2", "--batch-size", "3")["measurements"]
    assert row["tokens"] == 2 * 3 * 16
    train_rows = evaluate(command, "1", "--on", "data=text", "--split", "train")["measurements"]
    assert train_rows[0]["tokens"] > 1400


def test_both_engines_give_the_same_numbers(chain, command):
    arguments = ["1", *TASKS, "--batches", "1", "--batch-size", "4"]
    torch = evaluate(command, *arguments, "--engine", "torch", "--device", "cpu")
    cuda = evaluate(command, *arguments, "--engine", "cuda", "--device", "host")
    assert [record["models"][0]["engine"][0] for record in (torch, cuda)] == ["torch", "cuda"]
    for one, other in zip(torch["measurements"], cuda["measurements"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["accuracy"] == other["accuracy"]


def test_the_table_and_the_page_carry_the_numbers(chain, command):
    out, _ = command("evaluate", "1", "2", *TASKS, "--output", "page")
    record = json.loads(Path("page/evaluation.json").read_text())
    page = Path("page/README.md").read_text()
    for row in record["measurements"]:
        assert f"{row['loss']:.4f}" in out
        assert f"{row['loss']:.4f}" in page
    assert "letters: forgotten" in out
    assert "| 00002-digits |" in page
    assert str(chain) not in page


def test_a_model_before_the_first_phase_adds_forward_transfer(chain, command):
    texts = ("--on", "x: data.path=letters.txt train.seq_len=8", "--on", "y: data.path=digits.txt train.seq_len=8")
    record = evaluate(command, "1", "2", *texts, "--before", "runs/short")
    [before] = [r["loss"] for r in record["measurements"] if (r["model"], r["task"]) == ("runs/short", "y")]
    assert record["chain"]["loss"]["forward"] == [None, pytest.approx(before - record["matrices"]["loss"][0][1])]


def test_a_bare_checkpoint_is_evaluated_without_its_run(chain, command):
    shutil.copy("experiments/00001-letters/model.bin", "bare.bin")
    [bare] = evaluate(command, "bare.bin", "--on", "data=text data.path=letters.txt")["measurements"]
    [known] = evaluate(command, "1", "--on", "data=text data.path=letters.txt")["measurements"]
    assert bare["loss"] == known["loss"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("9", "--on", "data=text"), 5, "'9' names no experiment"),
        (("1", "1", "--on", "data=text"), 2, "named twice"),
        (("letters.txt", "--on", "data=pydocs"), 3, "this is not an llm.c checkpoint"),
        (("1", "--on", "data=modular"), 2, "00001-letters on modular: the model was trained on tokens of bytes"),
        (("runs/sums", "--on", "data.prime=5"), 2, "runs/sums on prime=5: the model was trained on tokens of"),
        (("1", "--on", "train.seq_len=17"), 2, "train.seq_len=17, above the 16 positions"),
        (("1", "--on", "data.path=gone.txt"), 3, "there is no such file"),
        (("1", "--on", "data=text", "--split", "test"), 2, "--split test: data.source=text has train, val"),
        (("1", "runs/short", "--on", "data=text"), 2, "positions a sequence differ (16 and 8)"),
        (("1", "--on", "task_position=auto"), 2, "this data has no answer span"),
        (("1", "--on", "data=text", "--device", "host"), 2, "engine.device=host"),
        (("1", "--on", "nonsense"), 2, "nonsense changes no evaluation"),
        (("1",), 2, "--on"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_before_anything_is(chain, command, monkeypatch, arguments, code, message):
    def never(*_: object) -> None:
        raise AssertionError("an engine was built")

    monkeypatch.setattr("gpt2lab.train.evaluate_models.create_engine", never)
    out, error = command("evaluate", *arguments, expect=code)
    assert message in error
    assert (out, error.count("\n")) == ("", 1)


def test_a_folder_of_an_experiments_name_does_not_hide_it(chain, command):
    Path("letters").mkdir()
    assert evaluate(command, "letters", "--on", "data=text")["models"][0]["name"] == "00001-letters"


def test_no_control_code_of_a_name_reaches_the_terminal(chain, command):
    texts = ["--on", "\x1b[31mred: data.path=letters.txt", "--on", "b\x07: data.path=digits.txt"]
    out, _ = command("evaluate", "1", "2", *texts, "--batches", "1")
    assert "␛[31mred" in out
    assert not {"\x1b", "\x07"} & set(out)


def test_missing_weights_are_named(chain, command):
    Path("experiments/00001-letters/model.bin").unlink()
    _, error = command("evaluate", "1", "--on", "data=text", expect=5)
    assert "weights are kept out of git" in error


def test_a_checkpoint_of_another_vocabulary_is_refused(chain, command):
    shutil.copy("runs/sums/model.bin", "bare.bin")
    _, error = command("evaluate", "bare.bin", "--on", "data=text data.path=letters.txt", expect=2)
    assert "the checkpoint has a vocabulary of" in error
    assert "256 (bytes)" in error


def test_an_output_folder_with_something_else_is_refused_first(chain, command):
    _, error = command("evaluate", "1", "--on", "data=text", "--output", "experiments/00001-letters", expect=5)
    assert "no evaluation.json" in error


def test_tokens_beyond_the_vocabulary_are_found_wherever_they_are(chain, command, monkeypatch):
    monkeypatch.setattr("gpt2lab.data.ids.PART_TOKENS", 100)
    tokens = np.zeros(1000, dtype=np.int64)
    tokens[900] = 300
    write_shard(Path("train.bin"), tokens[:500])
    write_shard(Path("val.bin"), tokens)
    wanted = "data=shards data.train=train.bin data.val=val.bin train.seq_len=16"
    _, error = command("evaluate", "1", "--on", wanted, expect=3)
    assert "token 300 is outside the model's vocabulary of 256" in error
