"""Whole steps of models that leave nothing out, against plain PyTorch: the case `peers` of tools/bench.py."""

from itertools import product
from typing import Any

import numpy as np
from bench_equal import OPTIM, Batch, Trained, differences, longest_sum, strong_params, two_updates
from bench_turns import Side, compare, fastest, rounding
from torch import nn

from gpt2lab.engine import Engine, EngineSpec, create_engine
from gpt2lab.model.bands import banded_tensors
from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import DeviceChoice, EngineConfig, EngineName, OptimConfig
from tests.reference_gpt import GPT, BandedLinear, Reference

MINI = GPTConfig(n_layer=4, n_head=4, n_embd=128, max_seq_len=128, vocab_size=256)
MASKED_GRADIENTS, MASKED_WEIGHTS = "masked gradients", "masked weights"  # two ways to train a band


def gpt2_124m(**bands: int) -> GPTConfig:
    return GPTConfig(n_layer=12, n_head=12, n_embd=768, max_seq_len=1024, vocab_size=50257, **bands)


def random_batch(model: GPTConfig, B: int, T: int) -> Batch:
    inputs, targets = np.random.default_rng(1).integers(0, model.vocab_size, (2, B, T), dtype=np.int32)
    return inputs, targets


def our_engine(model: GPTConfig, batch: Batch, counted: tuple[int, ...] | None = None, **keys: bool) -> Engine:
    """Return the PyTorch engine with parameters of seed 0 and the keys `engine.*` given, on the processor."""
    B, T = batch[0].shape
    engine = EngineConfig(name=EngineName.torch, device=DeviceChoice.cpu, **keys)
    spec = EngineSpec(model=model, optim=OPTIM, engine=engine, counted=counted, batch_size=B, seq_len=T)
    return create_engine(spec, init_params(model, seed=0))


def update(side: Trained, batch: Batch) -> Side:
    """Return a function that does one update."""
    return lambda: side.train_step(*batch, learning_rate=OPTIM.learning_rate)


def mask_gradients(model: GPT) -> None:
    """Let hooks clear the gradients outside each band, instead of a product with a mask in each forward pass."""
    for mlp in (block.mlp for block in model.h):
        for place, layer in enumerate(mlp):
            if isinstance(layer, BandedLinear):
                mlp[place] = plain = nn.Linear(layer.in_features, layer.out_features, device="meta")
                plain.weight, plain.bias = layer.weight, layer.bias
                plain.weight.register_hook(lambda grad, mask=layer.mask: grad.mul_(mask))


def variants(
    model: GPTConfig, optim: OptimConfig = OPTIM, counted: tuple[int, ...] | None = None
) -> dict[str, Reference]:
    """Return PyTorch's side in each of its forms, with parameters of seed 0.

    The output layer has V rows, or those of the padding too: more work, but a row length that suits the processor.
    """
    V, Vp, params = model.vocab_size, model.padded_vocab_size, init_params(model, seed=0)
    rows = {f"{V} columns of logits": False, f"{Vp} columns of logits": True} if Vp > V else {"": False}
    found = {}
    for masking, padding in product([MASKED_GRADIENTS, MASKED_WEIGHTS] if banded_tensors(model) else [""], rows):
        peer = GPT(model, params, padded=rows[padding])
        if masking == MASKED_GRADIENTS:
            mask_gradients(peer)
        found[", ".join(filter(None, (masking, padding))) or "as it is"] = Reference(peer, optim, counted)
    return found


def require_same_updates(what: str, engine: Engine, peers: dict[str, Reference], batch: Batch) -> None:
    """Stop unless all do the same two updates; then they hold the parameters of seed 0 again."""
    model = next(iter(peers.values())).model.config
    start, first = strong_params(model), init_params(model, seed=0)
    allowed = rounding(longest_sum(model, batch[0].size))
    ours = two_updates(engine, start, batch)
    for name, peer in peers.items():
        theirs = two_updates(peer, start, batch)
        if found := list(differences(start, ours, theirs, vocab_size=model.vocab_size, allowed=allowed)):
            raise SystemExit(f"{what}: differs from PyTorch, {name}: {'; '.join(found)}: nothing was timed")
        peer.restore(first, {}, 0)
    engine.restore(first, {}, 0)


def compare_steps(
    what: str, engine: Engine, peers: dict[str, Reference], batch: Batch, *, rounds: int, calls: int
) -> Any:
    """Compare whole updates on one batch with PyTorch's fastest, once all are known to do the same."""
    require_same_updates(what, engine, peers, batch)
    chosen = fastest({name: update(peer, batch) for name, peer in peers.items()}, calls=calls)
    sides = {"ours": update(engine, batch), "theirs": update(peers[chosen], batch)}
    return compare(sides, rounds=rounds, calls=calls) | {"variant": chosen}


def bench_peers() -> dict[str, Any]:
    """Measure dense steps of GPT-2 124M and of the mini model."""
    found = {}
    for name, model, (B, T), rounds, calls in (
        ("124M", gpt2_124m(), (4, 64), 25, 1),
        ("mini", MINI, (16, 128), 60, 2),
    ):
        batch = random_batch(model, B, T)
        engine = our_engine(model, batch)
        found[name] = compare_steps(name, engine, variants(model), batch, rounds=rounds, calls=calls)
    return found
