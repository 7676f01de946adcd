"""Banded MLPs against dense products with masked gradients: the case `bands` of tools/bench.py."""

from collections.abc import Callable
from typing import Any

import torch
from bench_peers import OPTIM, Batch, gpt2_124m, our_engine, random_batch, same_loss
from bench_turns import compare, fastest, in_turns, ratio, require_equal
from plain_gpt import PlainStep
from torch import Tensor, nn

from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig

ROWS = 1024  # of the MLP alone
MASKINGS = {"masked gradients": False, "masked weights": True}


def bench_bands() -> dict[str, Any]:
    """Measure the MLP alone and whole steps of GPT-2 124M."""
    found: dict[str, Any] = {f"mlp {band}": bench_mlp(band) for band in (256, 512)}
    return found | bench_step(256)


def bench_mlp(band: int) -> dict[str, Any]:
    """Compare forward and backward of one MLP, 768 channels, with gradients of its input and of its parameters."""
    model = GPTConfig(n_layer=1, n_head=12, n_embd=768, max_seq_len=64, vocab_size=256, fc1_band=band, fc2_band=band)
    batch = random_batch(model, ROWS // 64, 64)
    engine: Any = our_engine(model, batch)
    ours = _mlp_pass(engine._model.blocks[0].mlp)
    peers = {
        name: PlainStep(model, init_params(model, seed=0), OPTIM, None, masked_weights=masked).model
        for name, masked in MASKINGS.items()
    }
    theirs = {name: _mlp_pass(peer.h[0].mlp) for name, peer in peers.items()}
    for name, call in theirs.items():
        for what, our, their in zip(("output", "input gradient"), ours(), call(), strict=True):
            require_equal(f"mlp {band}, {name}: {what}", our, their, terms=model.n_hidden)
    chosen = fastest(theirs)
    return compare({"ours": ours, "theirs": theirs[chosen]}, rounds=15) | {"variant": chosen}


def _mlp_pass(mlp: nn.Module) -> Callable[[], tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    x, dy = (torch.randn(ROWS, 768, generator=generator) for _ in range(2))
    x.requires_grad_()
    parameters = list(mlp.parameters())

    def call() -> tuple[Tensor, Tensor]:
        for p in (x, *parameters):
            p.grad = None
        out = mlp(x)
        out.backward(dy)
        assert x.grad is not None
        return out.detach(), x.grad

    return call


def bench_step(band: int) -> dict[str, Any]:
    """Compare updates of GPT-2 124M with PyTorch's, and with our own when `engine.banded_products` is false."""
    model = gpt2_124m(fc1_band=band, fc2_band=band)
    batch = random_batch(model, 4, 64)
    name = f"124M {band}"
    params = init_params(model, seed=0)
    peers = {n: PlainStep(model, params, OPTIM, None, masked_weights=masked) for n, masked in MASKINGS.items()}
    chosen = fastest({n: _update(peer, batch) for n, peer in peers.items()}, rounds=2)
    peers.clear()  # memory
    engines = {"ours": our_engine(model, batch), "own": our_engine(model, batch, banded_products=False)}
    peer = PlainStep(model, params, OPTIM, None, masked_weights=MASKINGS[chosen])
    for engine in engines.values():
        same_loss(name, engine, peer, batch)
    sides = {n: _engine_update(engine, batch) for n, engine in engines.items()}
    times = in_turns(sides | {"theirs": _update(peer, batch)}, rounds=9)
    return {
        name: ratio(times["ours"], times["theirs"]) | {"variant": chosen},
        f"{name} own": ratio(times["ours"], times["own"]),
    }


def _update(peer: PlainStep, batch: Batch) -> Callable[[], None]:
    return lambda: peer.train_step(*batch)


def _engine_update(engine: Any, batch: Batch) -> Callable[[], None]:
    return lambda: engine.train_step(*batch, learning_rate=OPTIM.learning_rate)
