from dataclasses import replace

import numpy as np
import pytest
from tiny_models import CUDA_ON_HOST, TORCH

from gpt2lab.model.llmc import read_checkpoint, write_checkpoint
from gpt2lab.schema import Precision
from gpt2lab.train.parity import compare_with_llmc


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
