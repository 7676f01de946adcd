from dataclasses import replace

import numpy as np
import pytest
import torch
from proof import tolerance
from tiny_models import CUDA_ON_HOST, TORCH, assert_near

from gpt2lab.data.shards import read_shard
from gpt2lab.model.llmc import DebugState, read_checkpoint, read_debug_state, read_tensors, write_checkpoint
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Decay, OptimConfig, Precision
from gpt2lab.train.parity import compare_with_llmc
from tests.reference_gpt import GPT, Reference


@pytest.fixture
def llmc(golden) -> tuple[Reference, DebugState, GPTConfig]:
    """The reference model with the parameters of llm.c, and what llm.c computed with them."""
    params, config = read_checkpoint(golden / "model.bin")
    optim = OptimConfig(beta2=0.999, decay=Decay.all, grad_clip=0.0)
    model = GPT(config, params, dtype=torch.float64)
    return Reference(model, optim), read_debug_state(golden / "debug_state.bin", config), config


def test_the_reference_model_agrees_with_llmc(llmc):
    model, state, config = llmc
    limit = 5 * tolerance(terms=128, roundings=4)  # llm.c computes in float32; five crossings of a layer
    loss, gradients = model.loss_and_gradients(state.inputs, state.targets)
    assert state.loss == pytest.approx(loss, rel=limit)
    assert_near(state.gradients, gradients, config, limit)
    np.testing.assert_allclose(state.logits[..., : config.vocab_size], model.logits(state.inputs), rtol=0, atol=limit)


def test_forty_updates_of_the_reference_model_follow_llmc(llmc, golden):
    model, _, config = llmc
    tokens = read_shard(golden / "train.bin")
    losses = []
    for step in range(40):
        piece = tokens[step * 64 : step * 64 + 65]
        model.train_step(piece[:-1].reshape(4, 16), piece[1:].reshape(4, 16), learning_rate=1e-3)
        losses.append(model.result().loss)
    np.testing.assert_allclose(losses, np.loadtxt(golden / "losses.txt"), rtol=0, atol=8 * 2**-24 * 4.7 * 8)
    assert_near(read_tensors(golden / "params_after.bin", config), model.parameters(), config, 8e-6)


def test_the_torch_engine_agrees_with_llmc(golden):
    rows = compare_with_llmc(golden / "model.bin", golden / "debug_state.bin", TORCH)
    assert [row.name for row in rows][:3] == ["logits", "loss", "gradient wte"]
    assert len(rows) == 18
    for row in rows:
        assert row.passed, row
        assert row.max_abs > 0


@pytest.mark.parametrize("kind", [TORCH, CUDA_ON_HOST], ids=["torch", "cuda on host"])
def test_bfloat16_differs_by_no_more_than_its_own_rounding(golden, kind):
    low = replace(kind, precision=Precision.bf16)
    rows = compare_with_llmc(golden / "model.bin", golden / "debug_state.bin", low)
    assert all(row.passed for row in rows), rows
    assert max(row.relative_error for row in rows) > 2**-10
    assert max(row.tolerance for row in rows) < 0.02  # five crossings of a layer


@pytest.mark.parametrize("tensor", ["lnfb", "fcw", "qkvw"])
def test_a_model_off_by_a_thousandth_fails(golden, tmp_path, tensor):
    params, config = read_checkpoint(golden / "model.bin")
    params[tensor] = params[tensor] + np.float32(1e-3)
    with (tmp_path / "model.bin").open("wb") as file:
        write_checkpoint(file, params, config)
    rows = compare_with_llmc(tmp_path / "model.bin", golden / "debug_state.bin", TORCH)
    assert not all(row.passed for row in rows)
