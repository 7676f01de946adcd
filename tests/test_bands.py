import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2lab.model.bands import (
    apply_bands,
    band_mask,
    band_widths,
    banded_tensors,
    density,
    is_dense,
    kept_weights,
)
from gpt2lab.model.flops import count_active_parameters, dense_flop_per_token
from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig


def shape(**changes) -> GPTConfig:
    settings = {"n_layer": 2, "n_head": 2, "n_embd": 16, "max_seq_len": 8, "vocab_size": 11} | changes
    return GPTConfig(**settings)


@given(n_embd=st.integers(1, 40), band=st.integers(0, 200))
def test_the_mask_follows_the_rule_weight_by_weight(n_embd, band):
    mask = band_mask(n_embd, band)
    for h in range(0, 4 * n_embd, 3):
        for c in range(n_embd):
            assert mask[h, c] == (band == 0 or abs(h - 4 * c) <= band / 2)
    assert kept_weights(n_embd, band) == mask.sum()
    assert is_dense(n_embd, band) == mask.all()


def test_an_inner_channel_keeps_257_units_of_a_band_of_256():
    assert band_mask(768, 256)[:, 384].sum() == 257


def test_a_band_as_wide_as_everything_counts_as_dense():
    assert density(128, 1024) == 1.0
    assert banded_tensors(shape(fc1_band=1024, fc2_band=1024)) == {}
    assert band_widths(shape(fc1_band=1024, fc2_band=7)) == {"fcprojw": 7}


def test_density_is_the_exact_count():
    assert density(128, 256) == pytest.approx(0.4389648, abs=1e-7)  # 28,768 of 65,536 counted one by one
    assert density(128, 256) == 28768 / 65536


def test_fc2_takes_the_transpose_of_the_rule():
    masks = banded_tensors(shape(fc1_band=7, fc2_band=7))
    np.testing.assert_array_equal(masks["fcprojw"], masks["fcw"].T)


def test_banding_keeps_weights_inside_and_zeroes_the_others():
    config = shape(fc1_band=6, fc2_band=3)
    dense = init_params(shape(), seed=1)
    banded = apply_bands(dense, config)
    for name, mask in banded_tensors(config).items():
        assert not banded[name][:, ~mask].any()
        np.testing.assert_array_equal(banded[name][:, mask], dense[name][:, mask])
    np.testing.assert_array_equal(banded["qkvw"], dense["qkvw"])


def test_active_parameters_leave_out_band_zeros_and_padded_rows():
    config = shape(fc1_band=6, fc2_band=3)
    params = init_params(config, seed=0)
    normal = ("wte", "wpe", "qkvw", "attprojw", "fcw", "fcprojw")  # drawn from a continuous distribution
    others = sum(array.size for name, array in params.items() if name not in normal)
    assert count_active_parameters(config) == others + sum(np.count_nonzero(params[name]) for name in normal)


def test_flops_of_gpt2_are_those_of_the_usual_formula():
    gpt2 = GPTConfig(n_layer=12, n_head=12, n_embd=768, max_seq_len=1024, vocab_size=50257)
    n = 123_653_376  # 124,439,808 parameters (Hugging Face's count) without 786,432 of positions
    assert dense_flop_per_token(gpt2, 1024) == 6 * n + 12 * 12 * 768 * 1024
    assert count_active_parameters(gpt2) == 124_439_808
