"""The table by which kernels find the tensors in the flat buffers."""

import numpy as np
import pytest

from gpt2lab.engine.cuda.ops.tensor_table import grid_of, tensor_table
from gpt2lab.errors import EngineError
from gpt2lab.model.params import TENSORS, GPTConfig, count_parameters, tensor_shapes
from gpt2lab.schema import Decay

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, max_seq_len=5, vocab_size=11, fc1_band=9, fc2_band=8)


def row(config: GPTConfig, name: str) -> list[int]:
    return tensor_table(config, Decay.matrices)[[spec.name for spec in TENSORS].index(name)].tolist()


def test_tensors_follow_one_another_and_fill_the_buffer():
    table = tensor_table(CONFIG, Decay.matrices)
    begins, sizes = table[:, 0], table[:, 1]
    assert begins[0] == 0
    assert np.array_equal(begins[1:], (begins + sizes)[:-1])
    assert begins[-1] + sizes[-1] == count_parameters(CONFIG)


def test_matrices_decay_or_all_tensors_do():
    assert tensor_table(CONFIG, Decay.matrices)[:, 2].tolist() == [spec.decays for spec in TENSORS]
    assert tensor_table(CONFIG, Decay.all)[:, 2].all()


def test_bands_are_on_the_two_matrices_of_the_mlp_with_the_shape_of_one_layer():
    assert row(CONFIG, "fcw")[3:] == [1, 4, 64, 16]
    assert row(CONFIG, "fcprojw")[3:] == [2, 4, 16, 64]
    assert all(row(CONFIG, name)[3] == 0 for name in tensor_shapes(CONFIG) if name not in ("fcw", "fcprojw"))


def test_a_band_that_keeps_everything_counts_as_none():
    config = GPTConfig(n_layer=1, n_head=2, n_embd=16, max_seq_len=5, vocab_size=11, fc1_band=1000)
    assert row(config, "fcw")[3:5] == [0, 0]


def test_a_tensor_too_large_for_32_bit_counting_is_refused():
    config = GPTConfig(n_layer=1, n_head=1, n_embd=16384, max_seq_len=5, vocab_size=70_000)
    with pytest.raises(EngineError, match="wte has 1147142144 parameters"):
        tensor_table(config, Decay.all)


def test_the_grid_has_no_more_blocks_than_the_largest_tensor_fills():
    table = tensor_table(CONFIG, Decay.matrices)
    assert grid_of(table, 1024, 512) == (2, 16)
    assert grid_of(table, 16, 100) == (100, 16)
