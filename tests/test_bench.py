"""The other side of tools/bench.py is the same model, trained alike; sides are measured in turns and must agree."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from proof import compare, tolerance
from tiny_models import random_params

from gpt2lab.engine.base import EngineSpec
from gpt2lab.engine.torch_engine import TorchEngine
from gpt2lab.model.bands import apply_bands, banded_tensors
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Device, EngineConfig, OptimConfig

TOOLS = Path(__file__).parent.parent / "tools"
MODEL = GPTConfig(n_layer=2, n_head=2, n_embd=8, max_seq_len=6, vocab_size=11, fc1_band=10, fc2_band=5)
OPTIM = OptimConfig(learning_rate=1e-3, grad_clip=1.0)


@pytest.fixture
def plain_gpt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("plain_gpt")


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("bench_turns")


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = np.random.default_rng(seed).integers(0, 11, (2, 5, 6), dtype=np.int32)
    return inputs, targets


@pytest.mark.parametrize("counted", [None, (2, 4)], ids=["all", "masked"])
@pytest.mark.parametrize("masked_weights", [False, True], ids=["gradients", "weights"])
def test_the_plain_model_trains_as_the_engine_does(plain_gpt, counted, masked_weights):
    params = apply_bands(random_params(MODEL), MODEL)
    kind = EngineConfig(device=Device.cpu)
    spec = EngineSpec(model=MODEL, optim=OPTIM, engine=kind, counted=counted, batch_size=5, seq_len=6)
    engine = TorchEngine(spec, params)
    peer = plain_gpt.PlainStep(MODEL, params, OPTIM, counted, masked_weights=masked_weights)
    loss, gradients = engine.loss_and_gradients(*batch(0))
    found = peer.loss(*batch(0))
    found.backward()
    allowed = 5 * tolerance(terms=32, roundings=4)
    assert found.item() == pytest.approx(loss, rel=allowed)
    masks = banded_tensors(MODEL)
    for name, _, index, tensor in peer.model.named_tensors():
        assert tensor.grad is not None
        expected = gradients[name][index]
        if name == "qkvb":  # a softmax ignores the bias of the keys: its gradient is rounding noise
            tensor.grad[8:16], expected[8:16] = 0, 0
        check = compare(name, tensor.grad.numpy(), expected.astype(np.float64), allowed)
        assert check.passed, check
    for step in range(3):
        engine.train_step(*batch(step), learning_rate=OPTIM.learning_rate)
        peer.train_step(*batch(step))
        assert peer.loss(*batch(step)).item() == pytest.approx(engine.evaluate(*batch(step)).loss, rel=1e-4)
    for name, _, _, tensor in peer.model.named_tensors():
        if name in masks:
            assert not tensor.detach()[torch.from_numpy(~masks[name])].any()


def test_sides_take_turns_and_the_first_round_does_not_count(turns, monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])

    def side(name: str, seconds: float) -> None:
        now[0] += seconds if name in calls else 100.0  # the first call is slow
        calls.append(name)

    sides = {"ours": lambda: side("ours", 2.0), "theirs": lambda: side("theirs", 8.0)}
    times = turns.in_turns(sides, rounds=3)
    assert calls == ["ours", "theirs", "theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert times == {"ours": [2.0] * 3, "theirs": [8.0] * 3}
    assert turns.ratio([1.0, 2.0, 1.0], [4.0, 4.0, 5.0])["ratio"] == 4.0


def test_sides_that_differ_are_not_timed(turns):
    values = torch.arange(1.0, 9.0)
    turns.require_equal("loss", values, values * (1 + 2**-23), terms=8)
    for other in (values * 1.001, values * torch.nan):
        with pytest.raises(SystemExit, match="loss: differs from PyTorch's by"):
            turns.require_equal("loss", values, other, terms=8)
