"""Small models and batches that tests of the engines share."""

import numpy as np
import torch
from proof import compare

from gpt2lab.engine import Engine, EngineSpec, create_engine
from gpt2lab.model.bands import banded_tensors
from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig, Params
from gpt2lab.schema import DeviceChoice, EngineConfig, EngineName, OptimConfig
from tests.reference_gpt import GPT, Reference

TORCH = EngineConfig(name=EngineName.torch, device=DeviceChoice.cpu)
CUDA_ON_HOST = EngineConfig(name=EngineName.cuda, device=DeviceChoice.host)


def config(**changes) -> GPTConfig:
    return GPTConfig(**({"n_layer": 2, "n_head": 2, "n_embd": 12, "max_seq_len": 10, "vocab_size": 17} | changes))


def engine(
    kind: EngineConfig, shape: GPTConfig | None = None, *, seed: int = 0, optim: dict | None = None, **changes
) -> Engine:
    """Return an engine for updates of up to 6 x 10 tokens."""
    shape = shape or config()
    settings = {"optim": OptimConfig(**(optim or {})), "batch_size": 6, "seq_len": 10} | changes
    return create_engine(EngineSpec(model=shape, engine=kind, **settings), init_params(shape, seed=seed))


def batch(B: int = 6, T: int = 10, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 17, (B, T), dtype=np.int32), rng.integers(0, 17, (B, T), dtype=np.int32)


def random_params(shape: GPTConfig, *, std: float = 0.2) -> dict:
    """Parameters large enough that every gradient is well above rounding; biases and norms moved too."""
    rng = np.random.default_rng(9)
    params = init_params(shape, seed=0)
    for name, array in params.items():
        moved = array + std * rng.standard_normal(array.shape).astype(np.float32)
        params[name] = np.where(array == 0, 0, moved) if name in banded_tensors(shape) or name == "wte" else moved
    return params


def spec_for(shape: GPTConfig, counted: tuple[int, ...] | None, kind: EngineConfig, **changes) -> EngineSpec:
    T = shape.max_seq_len
    positions = None if counted is None else tuple(sorted({position % T for position in counted}))
    settings = {"optim": OptimConfig(), "batch_size": 3, "seq_len": T} | changes
    return EngineSpec(model=shape, engine=kind, counted=positions, **settings)


def tokens_for(shape: GPTConfig, B: int = 3, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    size = (B, shape.max_seq_len)
    return tuple(rng.integers(0, shape.vocab_size, size, dtype=np.int32) for _ in range(2))


def reference(spec: EngineSpec, params: Params) -> Reference:
    """Return the reference model of a spec, in float64."""
    return Reference(GPT(spec.model, params, dtype=torch.float64), spec.optim, spec.counted)


def comparable(tensors: Params, shape: GPTConfig) -> Params:
    """Return the 16 tensors without rows of the vocabulary's padding, and without the key bias.

    A softmax ignores the key bias: its gradient is rounding noise around zero, which AdamW turns into steps.
    """
    C = shape.n_embd
    return tensors | {
        "wte": tensors["wte"][: shape.vocab_size],
        "qkvb": np.delete(tensors["qkvb"], np.s_[C : 2 * C], 1),
    }


def assert_near(found: Params, expected: Params, shape: GPTConfig, limit: float) -> None:
    """Fail unless each tensor is within `limit` of the float64 `expected`, relative to the largest value in it."""
    found, expected = comparable(found, shape), comparable(expected, shape)
    for name, wanted in expected.items():
        if np.abs(wanted).max() < 1e-12:  # rounding: with one position attention has nothing to choose from
            assert np.abs(found[name]).max() <= limit, name
            continue
        check = compare(name, found[name], wanted.astype(np.float64), limit)
        assert check.passed, check
