"""Nothing is timed by tools/bench.py unless both sides train alike: which mistakes its checks find."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gpt2lab.engine.torch import banded as torch_banded
from gpt2lab.engine.torch import engine as torch_engine
from gpt2lab.engine.torch import model as torch_model
from gpt2lab.model.params import GPTConfig
from tests import reference_gpt

MODEL = GPTConfig(n_layer=2, n_head=2, n_embd=8, max_seq_len=6, vocab_size=11, fc1_band=10, fc2_band=5)


def batch() -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = np.random.default_rng(0).integers(0, 11, (2, 5, 6), dtype=np.int32)
    return inputs, targets


def not_causal(*args: Any, is_causal: bool) -> torch.Tensor:
    return nn.functional.scaled_dot_product_attention(*args, is_causal=False)


def freeze(peer: Any) -> None:
    peer.model.h[1].mlp[2].weight.requires_grad_(False)


def exact_gelu(peer: Any) -> None:
    peer.model.h[0].mlp[1] = nn.GELU()


def larger_loss(peer: Any) -> None:
    whole = peer.model.loss
    peer.model.loss = lambda *batch: 1.001 * whole(*batch)


def decay_all(peer: Any) -> None:
    peer.optimizer.param_groups[1]["weight_decay"] = 0.1


def one_bias_is_not_trained(peer: Any) -> None:
    peer.optimizer.param_groups[1]["params"].pop(3)


MISTAKES: dict[str, tuple[dict[str, float], Callable[[Any], None]]] = {
    "no weight decay": ({"weight_decay": 0.0}, lambda peer: None),
    "wrong beta1": ({"beta1": 0.95}, lambda peer: None),
    "wrong beta2": ({"beta2": 0.999}, lambda peer: None),
    "no clipping": ({"grad_clip": 1e9}, lambda peer: None),
    "another eps": ({"eps": 1e-8}, lambda peer: None),
    "vectors decay": ({}, decay_all),
    "a bias left out": ({}, one_bias_is_not_trained),
    "a loss that is 0.1 % larger": ({}, larger_loss),
    "exact GELU": ({}, exact_gelu),
    "no weight gradient": ({}, freeze),
}


@pytest.mark.parametrize("counted", [None, (2, 4)], ids=["all", "masked"])
def test_sides_that_do_the_same_updates_are_timed_with_the_parameters_of_seed_0(tool, counted):
    peers = tool("bench_peers")
    variants = peers.variants(MODEL, counted=counted)
    assert len(variants) == 4  # with the rows of padding and without, each with both maskings
    engine = peers.our_engine(MODEL, batch(), counted)
    start = engine.parameters()
    peers.require_same_updates("step", engine, variants, batch())
    for side in (engine, *variants.values()):
        for name, array in side.parameters().items():
            np.testing.assert_array_equal(array, start[name][: len(array)])
        assert not any(array.any() for array in side.moments().values())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_training_is_found_before_anything_is_timed(tool, mistake):
    peers, (changes, change) = tool("bench_peers"), MISTAKES[mistake]
    variants = peers.variants(MODEL, replace(peers.OPTIM, **changes))
    for peer in variants.values():
        change(peer)
    with pytest.raises(SystemExit, match=r"step: differs from PyTorch, .*nothing was timed"):
        peers.require_same_updates("step", peers.our_engine(MODEL, batch()), variants, batch())


def test_attention_that_is_not_causal_is_found_before_anything_is_timed(tool, monkeypatch):
    peers = tool("bench_peers")
    functions = {"linear": nn.functional.linear, "cross_entropy": nn.functional.cross_entropy}
    monkeypatch.setattr(reference_gpt, "F", SimpleNamespace(scaled_dot_product_attention=not_causal, **functions))
    with pytest.raises(SystemExit, match="nothing was timed"):
        peers.require_same_updates("step", peers.our_engine(MODEL, batch()), peers.variants(MODEL), batch())


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bands in tiles, which would not pay in so small a model."""
    monkeypatch.setattr(torch_engine, "choose_tiles", lambda *_: {"fc1": 64, "fc2": 64})


@pytest.fixture
def mlp_bench(tool, tiles, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """The comparison of one small MLP, without a clock."""
    bands = tool("bench_bands")
    monkeypatch.setattr(bands, "fastest", lambda sides: next(iter(sides)))
    monkeypatch.setattr(bands, "compare", lambda sides, **_: {name: set(side()) for name, side in sides.items()})
    return lambda: bands.bench_mlp(24, n_embd=64)


def test_an_mlp_that_computes_the_same_is_timed(mlp_bench):
    results = {"output", "input gradient"}
    assert mlp_bench() == {"ours": results, "theirs": results, "variant": "masked gradients"}


def test_an_mlp_whose_weights_get_no_gradient_is_not_timed(mlp_bench, monkeypatch):
    monkeypatch.setattr(torch_banded, "_weight_gradient", lambda channels, hidden, rows, cut: torch.zeros_like(rows))
    with pytest.raises(SystemExit, match="fc1 weight gradient: differs"):
        mlp_bench()


def test_an_mlp_with_exact_gelu_is_not_timed(mlp_bench, monkeypatch):
    exact = SimpleNamespace(gelu=lambda x, approximate: nn.functional.gelu(x))
    monkeypatch.setattr(torch_model, "F", exact)
    with pytest.raises(SystemExit, match="output: differs"):
        mlp_bench()


@pytest.mark.parametrize(("kind", "allowed"), [("m.", 0.01), ("v.", 0.02), ("", 0.01)])
def test_what_is_allowed_is_relative_to_the_gradient_or_to_the_change_of_all_parameters(tool, kind, allowed):
    differences = tool("bench_equal").differences
    start = {"wte": np.full((3, 2), 5.0)}
    theirs = {f"{kind}wte": np.array([[7.0, 6.0], [3.0, 4.0], [0.0, 0.0]])}
    size = np.linalg.norm(theirs[f"{kind}wte"][:2] - (0 if kind else 5))
    for error, n_found in ((0.99, 0), (1.01, 1), (np.nan, 1)):
        ours = {f"{kind}wte": theirs[f"{kind}wte"] + [[allowed * error * size, 0], [0, 0], [9, 9]]}  # the last: padding
        assert len(list(differences(start, ours, theirs, vocab_size=2, allowed=0.01))) == n_found
