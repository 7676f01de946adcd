"""A data source that is added to the registry, and nowhere else, trains, evaluates, plans and writes samples."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import QUIET, numbers, run

from gpt2lab.data import SOURCES, Source, SourceKind, Split
from gpt2lab.data.tokenizers import SymbolTokenizer
from gpt2lab.errors import ConfigError
from gpt2lab.run import main
from gpt2lab.train.check import RunChecks

DIGITS = tuple("0123456789")


def describe(config, vocab_size) -> Source:
    """Rows of four digits that count up; the last one is the answer."""
    return Source(
        name="counting",
        tokenizer=SymbolTokenizer("digits", DIGITS),
        vocab_size=len(DIGITS),
        own_symbols=True,
        is_synthetic=True,
        row_len=4,
        answer_span=(2, 2),
        prompt="0",
    )


def read(source: Source, config, report_progress) -> Source:
    rows = (np.arange(10)[:, None] + np.arange(4)).astype(np.uint16) % 10
    splits = {
        "train": Split(shards=(rows.ravel(),), n_bytes=None),
        "val": Split(shards=(rows[:5].ravel(),), n_bytes=None),
    }
    return replace(source, splits=splits, files={"counting": "0" * 64})


@pytest.fixture
def counting(workplace, monkeypatch) -> Path:
    kind = SourceKind(name="counting", keys=frozenset(), describe=describe, read=read)
    monkeypatch.setitem(SOURCES, "counting", kind)
    return workplace


def test_it_trains_is_planned_evaluated_and_continued_by_samples(counting, command):
    overrides = [
        *(item for item in QUIET if item != "sample.count=0"),
        "data.source=counting",
        "task_position=auto",
        "train.max_steps=2",
        "sample.count=2",
    ]
    path = run(*overrides)
    rows = numbers(path)
    assert [row["step"] for row in rows] == [0, 1, 2] and rows[2]["val_loss"] is not None
    samples = sorted(file.read_text() for file in (path / "samples").iterdir())
    assert len(samples) == 2 and all(" -> " in text for text in samples)  # answers, since it has an answer span

    out, _ = command("plan", *overrides)
    assert "4 positions, 1 of them in the loss" in out
    out, _ = command("evaluate", str(path), "--on", "train.seq_len=4", "--json")
    [measured] = json.loads(out)["measurements"]
    assert measured["loss"] == pytest.approx(rows[2]["val_loss"], rel=1e-5)
    out, _ = command("sample", str(path), "--max-tokens", "9")
    assert len(out.split()) == 4 and out.startswith("0 ")  # its own prompt; a sample ends where a row does


def test_its_symbols_and_its_rows_are_respected(counting, command, capsys):
    path = run(*QUIET, "data.source=counting", "train.max_steps=1")
    assert main([*QUIET, "data.source=counting", "train.seq_len=5"]) == 2
    assert "data.source=counting has rows of 4 positions" in capsys.readouterr().err
    assert main([*QUIET, "data.source=counting", "data.tokenizer=gpt2"]) == 2
    assert "data.source=counting does not use it" in capsys.readouterr().err
    assert len(list(Path("runs").glob("*/*"))) == 2  # the third attempt left no directory
    _, error = command("evaluate", str(path), "--on", "data=pydocs", expect=2)
    assert "the model was trained on tokens of digits (10)" in error


def test_a_sweep_checks_it_before_its_first_job(counting):
    from gpt2lab.compose import compose

    checks = RunChecks()
    assert checks.check(compose([*QUIET, "data.source=counting"])) == {"counting": "0" * 64}
    with pytest.raises(ConfigError, match=r"data\.source=countin: no such source; expected .*, counting"):
        checks.check(compose([*QUIET, "data.source=countin"]))
