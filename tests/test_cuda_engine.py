"""The CUDA core as a whole, run on the host device."""

from dataclasses import replace

import numpy as np
import pytest
from proof import UNIT_ROUNDOFF, compare, tolerance
from tiny_models import CUDA_ON_HOST, TORCH, batch, config, engine, random_params

from gpt2lab.engine.base import EngineSpec, create_engine
from gpt2lab.engine.cuda_engine import CudaEngine
from gpt2lab.engine.cuda_host import HostDevice
from gpt2lab.engine.cuda_memory import plan_memory, workload_of
from gpt2lab.engine.numerics import Numerics
from gpt2lab.errors import EngineError
from gpt2lab.model.bands import banded_tensors
from gpt2lab.model.init import init_params
from gpt2lab.model.llmc import read_checkpoint, read_debug_state
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Device, EngineConfig, EngineName, OptimConfig, Precision
from gpt2lab.train.parity import compare_with_llmc

# Awkward shapes: heads of 20 and 7 channels, odd widths, rows above and below the length at which attention changes
# its kernels, a vocabulary that is no multiple of anything.
SHAPES = {
    "heads of 20": {"n_head": 1, "n_embd": 20, "max_seq_len": 5, "vocab_size": 97},
    "odd width": {"n_head": 3, "n_embd": 21, "max_seq_len": 33, "vocab_size": 130},
    "one layer, one position": {"n_layer": 1, "n_head": 2, "n_embd": 8, "max_seq_len": 1, "vocab_size": 3},
    "long rows": {"n_head": 2, "n_embd": 48, "max_seq_len": 70, "vocab_size": 61},
}
VARIANTS = {
    "dense": ({}, None),
    "banded": ({"fc1_band": 9, "fc2_band": 4}, None),
    "one position": ({}, (-1,)),
    "banded, some positions": ({"fc1_band": 6}, (0, -1)),
}


def spec_for(shape: GPTConfig, counted: tuple[int, ...] | None, kind: EngineConfig, **changes) -> EngineSpec:
    T = shape.max_seq_len
    positions = None if counted is None else tuple(sorted({position % T for position in counted}))
    settings = {"optim": OptimConfig(), "batch_size": 3, "seq_len": T} | changes
    return EngineSpec(model=shape, engine=kind, counted=positions, **settings)


def tokens_for(shape: GPTConfig, B: int = 3, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    size = (B, shape.max_seq_len)
    return tuple(rng.integers(0, shape.vocab_size, size, dtype=np.int32) for _ in range(2))


def allowed(shape: GPTConfig, *, rows: int, precision: str = "fp32") -> float:
    """A gradient crosses all layers forward and backward; each stores a dozen values that feed it."""
    depth = 2 * shape.n_layer + 1
    longest = max(rows, shape.n_hidden, shape.vocab_size)
    return depth * tolerance(terms=longest, store=precision, roundings=6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_all_gradients_of_one_step_equal_those_of_torch(shape, variant):
    bands, counted = VARIANTS[variant]
    model = config(**SHAPES[shape], **bands)
    params = random_params(model)
    inputs, targets = tokens_for(model)
    found_loss, found = create_engine(spec_for(model, counted, CUDA_ON_HOST), params).loss_and_gradients(inputs, targets)
    loss, expected = create_engine(spec_for(model, counted, TORCH), params).loss_and_gradients(inputs, targets)
    limit = allowed(model, rows=inputs.size)
    assert abs(found_loss - loss) <= limit * abs(loss)
    for name, gradient in expected.items():
        if name == "qkvb":  # a softmax ignores the key bias: both are rounding noise around zero
            C = model.n_embd
            gradient, found[name] = np.delete(gradient, np.s_[C : 2 * C], 1), np.delete(found[name], np.s_[C : 2 * C], 1)
        if np.abs(gradient).max() == 0:  # with one position attention has nothing to choose from
            assert np.abs(found[name]).max() <= limit
            continue
        assert str(check := compare(name, found[name], gradient.astype(np.float64), limit)) and check.passed, check
    for name, mask in banded_tensors(model).items():
        assert not found[name][:, ~mask].any()
