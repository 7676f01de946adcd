import math

import numpy as np
import pytest

from gpt2lab.errors import ConfigError
from gpt2lab.model.init import init_params
from gpt2lab.model.params import TENSORS, GPTConfig, check_params, padded_vocab_size

CONFIG = GPTConfig(n_layer=8, n_head=4, n_embd=64, max_seq_len=32, vocab_size=100)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    first, again, other = init_params(CONFIG, seed=3), init_params(CONFIG, seed=3), init_params(CONFIG, seed=4)
    check_params(first, CONFIG)
    for name in first:
        assert first[name].dtype == np.float32
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["fcw"], other["fcw"])


def test_spreads_are_002_and_scaled_by_the_depth_in_residual_projections():
    params = init_params(CONFIG, seed=0)
    for name in ("wpe", "qkvw", "fcw"):
        assert params[name].std() == pytest.approx(0.02, rel=0.05)
    for name in ("attprojw", "fcprojw"):
        assert params[name].std() == pytest.approx(0.02 / math.sqrt(16), rel=0.02)
    unscaled = init_params(CONFIG, seed=0, scale_residual=False)
    assert unscaled["fcprojw"].std() == pytest.approx(0.02, rel=0.02)


def test_biases_are_zero_norms_one_and_padded_rows_zero():
    params = init_params(CONFIG, seed=0)
    for spec in TENSORS:
        if spec.init in ("zeros", "ones"):
            assert (params[spec.name] == (spec.init == "ones")).all()
    assert params["wte"].shape == (128, 64)
    assert not params["wte"][100:].any()
    assert params["wte"][:100].any(axis=1).all()


@pytest.mark.parametrize(("vocab_size", "padded"), [(1, 128), (128, 128), (129, 256), (50257, 50304)])
def test_the_vocabulary_is_padded_to_a_multiple_of_128(vocab_size, padded):
    assert padded_vocab_size(vocab_size) == padded


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_head": 5}, "n_embd=64 is not divisible by model.n_head=5"),
        ({"n_layer": 0}, "n_layer=0"),
        ({"fc1_band": -1}, "fc1_band=-1"),
        ({"padded_vocab_size": 64}, "below vocab_size=100"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_name(changes, words):
    settings = {"n_layer": 2, "n_head": 4, "n_embd": 64, "max_seq_len": 8, "vocab_size": 100} | changes
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        GPTConfig(**settings)
