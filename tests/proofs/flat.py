"""Small models in flat buffers, for the proofs of kernels that go over all parameters."""

import numpy as np

from gpt2lab.model.bands import banded_tensors
from gpt2lab.model.params import GPTConfig, tensor_shapes

# Odd channels; a multiple of no power of two; bands on one, both or no matrix, of odd width, and one that keeps all.
CONFIGS = [
    GPTConfig(
        n_layer=2, n_head=1, n_embd=7, max_seq_len=5, vocab_size=11, padded_vocab_size=13, fc1_band=5, fc2_band=8
    ),
    GPTConfig(n_layer=3, n_head=2, n_embd=20, max_seq_len=9, vocab_size=97, fc1_band=1, fc2_band=33),
    GPTConfig(n_layer=1, n_head=2, n_embd=48, max_seq_len=3, vocab_size=97, fc1_band=64),
    GPTConfig(n_layer=2, n_head=2, n_embd=24, max_seq_len=3, vocab_size=97, fc1_band=2, fc2_band=500),
]


def name_of(config: GPTConfig) -> str:
    return f"L={config.n_layer} C={config.n_embd} bands={config.fc1_band},{config.fc2_band}"


def kept_parameters(config: GPTConfig) -> np.ndarray:
    """Return which of the flat parameters the bands keep, bool."""
    masks = banded_tensors(config)
    shapes = tensor_shapes(config)
    return np.concatenate([np.broadcast_to(masks.get(name, True), shape).ravel() for name, shape in shapes.items()])


def decaying_parameters(config: GPTConfig, names: set[str]) -> np.ndarray:
    """Return which of the flat parameters belong to tensors in `names`, bool."""
    return np.concatenate([np.full(np.prod(shape), name in names) for name, shape in tensor_shapes(config).items()])
