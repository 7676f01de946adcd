"""The other side of tools/bench.py is the same model, trained alike; sides are measured in turns and must agree."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import OptimConfig

MODEL = GPTConfig(n_layer=2, n_head=2, n_embd=8, max_seq_len=6, vocab_size=11, fc1_band=10, fc2_band=5)
OPTIM = OptimConfig(learning_rate=1e-3, grad_clip=1.0, eps=1e-3)


@pytest.fixture
def turns(tool) -> ModuleType:
    return tool("bench_turns")


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = np.random.default_rng(seed).integers(0, 11, (2, 5, 6), dtype=np.int32)
    return inputs, targets


def test_sides_take_turns_and_rounds_to_warm_up_do_not_count(turns, monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])

    def side(name: str, seconds: float) -> None:
        now[0] += seconds if calls.count(name) >= turns.WARM_UP else 100.0  # the first calls are slow
        calls.append(name)

    sides = {"ours": lambda: side("ours", 2.0), "theirs": lambda: side("theirs", 8.0)}
    times = turns.in_turns(sides, rounds=3)
    assert len(calls) == 2 * (3 + 3)
    assert calls[-6:] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert times == {"ours": [2.0] * 3, "theirs": [8.0] * 3}
    assert turns.ratio([1.0, 2.0, 1.0], [4.0, 4.0, 5.0])["ratio"] == 4.0


def test_sides_that_differ_are_not_timed(turns):
    values = torch.arange(1.0, 9.0)
    turns.require_equal("loss", values, values * (1 + 2**-23), terms=8)
    values, allowed = values.double(), 2.0**-24 * (8 * 8**0.5 + 4)
    turns.require_equal("loss", values, values * (1 + 0.99 * allowed), terms=8)
    for other in (values * (1 + 1.01 * allowed), values * torch.nan):
        with pytest.raises(SystemExit, match="loss: differs from PyTorch's by"):
            turns.require_equal("loss", values, other, terms=8)


def seconds(**of_sides: float) -> Callable[..., dict[str, list[float]]]:
    """Return what stands in for `in_turns`: it does nothing, and every round took the seconds given."""
    return lambda sides, *, rounds, calls=1: {name: [of_sides[name]] * rounds for name in sides}


def test_ratios_say_how_many_times_longer_the_others_take(tool, turns, monkeypatch):
    curve, bands = tool("bench_curve"), tool("bench_bands")
    monkeypatch.setattr(curve, "our_engine", lambda *_: None)
    monkeypatch.setattr(curve, "in_turns", seconds(**{"0": 6.0} | {str(width): 2.0 for width in curve.WIDTHS}))
    for found in curve.bench_curve().values():
        assert (found["ratio"], found["rounds"]) == (3.0, 30)
    monkeypatch.setattr(bands, "in_turns", seconds(ours=2.0, own=3.0, theirs=8.0))
    found = bands.bench_step(replace(MODEL, max_seq_len=64), "small")
    assert found["small"]["ratio"] == 4.0 and found["small"]["rounds"] == 30
    assert (found["small"]["ours_ms"], found["small"]["theirs_ms"]) == (2000.0, 8000.0)
    assert found["small own"]["ratio"] == 1.5
    monkeypatch.setattr(turns, "in_turns", seconds(ours=2.0, theirs=5.0))
    assert turns.compare({"ours": print, "theirs": print}, rounds=3)["ratio"] == 2.5
    assert turns.fastest({"theirs": print, "ours": print}) == "ours"


def test_of_the_forms_of_the_peer_the_fastest_is_timed(tool, monkeypatch):
    peers = tool("bench_peers")
    monkeypatch.setattr(peers, "fastest", lambda sides, **_: list(sides)[-1])
    monkeypatch.setattr(peers, "compare", lambda sides, **_: {name: side() for name, side in sides.items()})
    variants = peers.variants(MODEL)
    engine = peers.our_engine(MODEL, batch(0))
    found = peers.compare_steps("step", engine, variants, batch(0), rounds=1, calls=1)
    chosen = "masked weights, 128 columns of logits"
    assert found == {"ours": None, "theirs": None, "variant": chosen} and engine.step == 1
    trained = {name for name, peer in variants.items() if any(array.any() for array in peer.moments().values())}
    assert trained == {chosen} and len(variants[chosen].model.wte.weight) == 128


def test_masks_are_measured_against_a_peer_that_counts_the_same_positions(tool, monkeypatch):
    masks, peers = tool("bench_masks"), tool("bench_peers")
    small = ["data.prime=5", "model.n_layer=1", "model.n_head=2", "model.n_embd=8"]
    monkeypatch.setattr(masks, "RUN", [*masks.RUN, *small])
    monkeypatch.setattr(peers, "compare", lambda *_, **__: {})
    found = masks.bench_masks()  # which stops unless their updates are ours
    assert set(found) == {"answer", "all"}
    right = masks.variants
    monkeypatch.setattr(masks, "variants", lambda model, optim, counted: right(model, optim, None))
    with pytest.raises(SystemExit, match="answer: differs"):
        masks.bench_masks()


def test_a_record_names_its_commit_and_the_table_its_rounds(tool, monkeypatch, capsys):
    bench, docs, rows = tool("bench"), tool("docs"), tool("bench_rows")
    figures = {"ratio": 1.5, "ratio_q1": 1.25, "ratio_q3": 1.75, "rounds": 9}
    monkeypatch.setitem(bench.CASES, "peers", lambda: {"mini": figures})
    monkeypatch.setattr(bench, "read_commit", lambda: "abc-dirty")
    monkeypatch.setattr(sys, "argv", ["bench.py", "peers"])
    bench.main()
    record = json.JSONDecoder().raw_decode(capsys.readouterr().out)[0]
    assert record["commit"] == "abc-dirty" and record["results"]["peers"]["mini"] == figures
    old = {key: value for key, value in figures.items() if key != "rounds"}
    monkeypatch.setattr(docs, "measured_rows", lambda: [(rows.ROWS[0], found, record) for found in (figures, old)])
    table = docs.speed_table()
    assert "| 1.500 (1.250 to 1.750; 9 rounds) |" in table and "| 1.500 (1.250 to 1.750) |" in table


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_commit_is_dirty_where_more_than_records_changed(tool, tmp_path):
    checkout = tool("checkout")
    assert checkout.read_commit(tmp_path) == "unknown"
    code, record = tmp_path / "code.py", tmp_path / checkout.RECORDS / "one.json"
    record.parent.mkdir(parents=True)
    for path in (code, record):
        path.write_text("1")
    identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    clean = checkout.read_commit(tmp_path)
    assert len(clean) == 40
    record.write_text("2")
    assert checkout.read_commit(tmp_path) == clean
    code.write_text("2")
    assert checkout.read_commit(tmp_path) == f"{clean}-dirty"
