"""The CUDA core's memory: planned, allocated, and refused when there is too little."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import CUDA_ON_HOST, config, spec_for, tokens_for

from gpt2lab.engine.cuda.device.host import HostDevice
from gpt2lab.engine.cuda.engine import CudaEngine
from gpt2lab.engine.cuda.memory import partials_size, plan_memory, workload_of
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops import layer_norm
from gpt2lab.engine.cuda.ops.banded_linear import DENSE
from gpt2lab.engine.cuda.ops.bias import row_chunks
from gpt2lab.engine.cuda.ops.tree_attention import key_work_sizes
from gpt2lab.errors import EngineError
from gpt2lab.model.init import init_params
from gpt2lab.schema import Precision


@pytest.mark.parametrize("counted", [None, (3,)])
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("tiles", [DENSE, {"fc1": {"forward": 16, "input": 20, "weight": 7}, "fc2": {"weight": 64}}])
def test_what_was_planned_is_what_is_allocated(tiles, precision, counted):
    model = config(n_embd=20, fc1_band=6, fc2_band=30)
    spec = spec_for(model, counted, replace(CUDA_ON_HOST, precision=precision), micro_batch_size=2)
    device = HostDevice()
    plan = plan_memory(model, Numerics.of(device, precision), replace(workload_of(spec), mlp_tiles=tiles))
    trained = CudaEngine(spec, init_params(model, seed=0), device, mlp_tiles=tiles)
    assert device.allocated_bytes == plan.n_bytes
    trained.train_step(*tokens_for(model), learning_rate=1e-3)
    trained.evaluate(*tokens_for(model, B=7))
    trained.logits(tokens_for(model, B=5)[0])
    assert device.allocated_bytes == plan.n_bytes
    ends = [slot.offset + slot.n_bytes for slot in plan.slots.values()]
    starts = [slot.offset for slot in plan.slots.values()]
    assert all(end <= start for end, start in zip(ends[:-1], starts[1:], strict=True))
    assert ends[-1] <= plan.n_bytes
    wide = [slot for slot in plan.slots.values() if slot.group == "gradients of activations"]
    assert len(wide) == 3
    assert plan.slots["logits"].shape == (2 * (10 if counted is None else 1), model.padded_vocab_size)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 20_000), st.integers(1, 1000))
@example(20, 900, 16_260, 768)
def test_the_scratch_of_a_pass_is_enough_for_every_smaller_one(B, seq_len, rows, n_embd):
    model = config(max_seq_len=1024, n_embd=n_embd, n_head=1)
    numerics = Numerics.of(HostDevice(), Precision.bf16)
    workload = workload_of(spec_for(model, None, CUDA_ON_HOST, batch_size=B, seq_len=seq_len))
    planned = partials_size(model, numerics, workload, B * seq_len)
    rows = min(rows, B * seq_len)  # of a smaller last pass, of counted positions alone, or of a tree
    assert row_chunks(rows)[1] * 4 * n_embd <= planned
    assert layer_norm.partials_size(numerics, rows, n_embd) <= planned
    if workload.shares:
        assert key_work_sizes(rows, rows, seq_len)[2] * 2 * n_embd <= planned


def test_parameters_lie_in_the_order_of_a_checkpoint():
    model = config(n_embd=20)
    params = init_params(model, seed=0)
    trained = CudaEngine(spec_for(model, None, CUDA_ON_HOST), params, HostDevice())
    flat = trained._device.download(trained._arena["parameters"])
    np.testing.assert_array_equal(flat, np.concatenate([array.ravel() for array in params.values()]))


def test_a_model_that_does_not_fit_is_refused_with_the_plan_and_the_largest_pass_that_fits(monkeypatch):
    model = config(max_seq_len=64, n_embd=48)
    spec = spec_for(model, None, CUDA_ON_HOST, batch_size=32)
    numerics = Numerics(Precision.fp32, np.dtype(np.float32))

    def planned(size: int) -> int:
        return plan_memory(model, numerics, replace(workload_of(spec), micro_batch_size=size)).n_bytes

    device = HostDevice()
    monkeypatch.setattr(device, "free_bytes", lambda: planned(5) + 100)
    with pytest.raises(
        EngineError, match=r"free; train\.micro_batch_size=5 is the largest that fits.*planned: training state"
    ):
        CudaEngine(spec, init_params(model, seed=0), device)
    assert device.allocated_bytes == 0
    monkeypatch.setattr(device, "free_bytes", lambda: planned(1) - 1)
    with pytest.raises(EngineError, match=r"not even one sequence at a time fits"):
        CudaEngine(spec, init_params(model, seed=0), device)
