"""Whole steps of models that leave nothing out, against plain PyTorch: the case `peers` of tools/bench.py."""

from typing import Any

import numpy as np
import torch
from bench_turns import compare, require_equal
from plain_gpt import PlainStep

from gpt2lab.engine.base import Engine, EngineSpec, create_engine
from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Device, EngineConfig, EngineName, OptimConfig

OPTIM = OptimConfig(learning_rate=1e-4, grad_clip=1.0)
MINI = GPTConfig(n_layer=4, n_head=4, n_embd=128, max_seq_len=128, vocab_size=256)

Batch = tuple[np.ndarray, np.ndarray]


def gpt2_124m(**bands: int) -> GPTConfig:
    return GPTConfig(n_layer=12, n_head=12, n_embd=768, max_seq_len=1024, vocab_size=50257, **bands)


def random_batch(model: GPTConfig, B: int, T: int) -> Batch:
    inputs, targets = np.random.default_rng(1).integers(0, model.vocab_size, (2, B, T), dtype=np.int32)
    return inputs, targets


def our_engine(model: GPTConfig, batch: Batch, counted: tuple[int, ...] | None = None, **keys: bool) -> Engine:
    """Return the PyTorch engine with parameters of seed 0 and the keys `engine.*` given, on the processor."""
    B, T = batch[0].shape
    engine = EngineConfig(name=EngineName.torch, device=Device.cpu, **keys)
    spec = EngineSpec(model=model, optim=OPTIM, engine=engine, counted=counted, batch_size=B, seq_len=T)
    return create_engine(spec, init_params(model, seed=0))


def same_loss(what: str, engine: Engine, peer: PlainStep, batch: Batch) -> None:
    """Stop unless both models have the same loss on the batch."""
    ours, _ = engine.loss_and_gradients(*batch)
    terms = batch[0].size + peer.model.config.vocab_size
    require_equal(f"{what}: loss", torch.tensor(ours), peer.loss(*batch).detach(), terms=terms)


def compare_steps(what: str, engine: Engine, peer: PlainStep, batch: Batch, *, rounds: int, calls: int) -> Any:
    """Compare whole updates on one batch, which both begin with the same parameters."""
    same_loss(what, engine, peer, batch)
    sides = {
        "ours": lambda: engine.train_step(*batch, learning_rate=OPTIM.learning_rate),
        "theirs": lambda: peer.train_step(*batch),
    }
    return compare(sides, rounds=rounds, calls=calls)


def bench_peers() -> dict[str, Any]:
    """Measure dense steps of GPT-2 124M and of the mini model."""
    found = {}
    for name, model, (B, T), rounds, calls in (
        ("124M", gpt2_124m(), (4, 64), 9, 1),
        ("mini", MINI, (16, 128), 15, 4),
    ):
        batch = random_batch(model, B, T)
        peer = PlainStep(model, init_params(model, seed=0), OPTIM, None)
        found[name] = compare_steps(name, our_engine(model, batch), peer, batch, rounds=rounds, calls=calls)
    return found
