"""Banded MLPs against dense products with masked gradients: the case `bands` of tools/bench.py."""

from collections.abc import Callable
from typing import Any

import torch
from bench_equal import strong_params
from bench_peers import gpt2_124m, our_engine, random_batch, require_same_updates, update, variants
from bench_turns import compare, fastest, in_turns, ratio, require_equal
from torch import Tensor, nn

from gpt2lab.engine.torch.banded import BandedLinear
from gpt2lab.model.params import GPTConfig

ROWS = 1024  # of the MLP alone


def bench_bands() -> dict[str, Any]:
    """Measure the MLP alone and whole steps of GPT-2 124M."""
    found: dict[str, Any] = {f"mlp {band}": bench_mlp(band) for band in (256, 512)}
    return found | bench_step(gpt2_124m(fc1_band=256, fc2_band=256), "124M 256")


def bench_mlp(band: int, n_embd: int = 768) -> dict[str, Any]:
    """Compare forward and backward of one MLP, with gradients of its input and of its parameters."""
    bands = {"fc1_band": band, "fc2_band": band}
    model = GPTConfig(n_layer=1, n_head=1, n_embd=n_embd, max_seq_len=64, vocab_size=256, **bands)
    batch, params = random_batch(model, ROWS // 64, 64), strong_params(model)
    engine: Any = our_engine(model, batch)
    engine.restore(params, {}, 0)
    mlp = engine._model.blocks[0].mlp
    ours, theirs = _mlp_pass(mlp, n_embd), {}
    expected = ours() | _gradients(mlp)
    for name, peer in variants(model).items():
        peer.restore(params, {}, 0)
        mlp = peer.model.h[0].mlp
        theirs[name] = _mlp_pass(mlp, n_embd)
        for what, their in (theirs[name]() | _gradients(mlp)).items():
            terms = 6 * n_embd + ROWS  # FC1, FC2 and back through both; then a weight gradient sums over rows
            require_equal(f"mlp {band}, {name}: {what}", expected[what], their, terms=terms)
    chosen = fastest(theirs)
    return compare({"ours": ours, "theirs": theirs[chosen]}, rounds=60) | {"variant": chosen}


def _mlp_pass(mlp: nn.Module, n_embd: int) -> Callable[[], dict[str, Tensor]]:
    """Return a function that does forward and backward, from the same input and upstream gradient."""
    generator = torch.Generator().manual_seed(2)
    x, dy = (torch.randn(ROWS, n_embd, generator=generator) for _ in range(2))
    x.requires_grad_()
    parameters = list(mlp.parameters())

    def call() -> dict[str, Tensor]:
        for p in (x, *parameters):
            p.grad = None
        out = mlp(x)
        out.backward(dy)
        assert x.grad is not None
        return {"output": out.detach(), "input gradient": x.grad}

    return call


def _gradients(mlp: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of both layers as whole matrices, and of their biases."""
    found = {}
    layers = [layer for layer in mlp.children() if list(layer.parameters())]
    for name, layer in zip(("fc1", "fc2"), layers, strict=True):
        for key, p in layer.named_parameters():
            assert p.grad is not None
            banded = key == "weight" and isinstance(layer, BandedLinear)
            found[f"{name} {key} gradient"] = layer.to_matrix(p.grad) if banded else p.grad
    return found


def bench_step(model: GPTConfig, name: str) -> dict[str, Any]:
    """Compare updates of a banded model with PyTorch's, and with our own when `engine.banded_products` is false."""
    batch = random_batch(model, 4, 64)
    peers, ours = variants(model), our_engine(model, batch)
    require_same_updates(name, ours, peers, batch)
    chosen = fastest({n: update(peer, batch) for n, peer in peers.items()})
    peers = {chosen: peers[chosen]}  # four of GPT-2 124M fill much of a machine's memory
    own = our_engine(model, batch, banded_products=False)
    require_same_updates(f"{name} own", own, peers, batch)
    sides = {"ours": ours, "own": own, "theirs": peers[chosen]}
    times = in_turns({n: update(side, batch) for n, side in sides.items()}, rounds=30)
    return {
        name: ratio(times["ours"], times["theirs"]) | {"variant": chosen},
        f"{name} own": ratio(times["ours"], times["own"]),
    }
