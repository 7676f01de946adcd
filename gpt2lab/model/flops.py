"""How much a model stores and computes, from its shape alone.

A multiply-add counts as two floating point operations; the backward pass as twice the forward pass.
Source: Kaplan et al., 2020, section 2.1; PaLM (Chowdhery et al., 2022), appendix B.
"""

from gpt2lab.model.bands import density
from gpt2lab.model.params import GPTConfig, count_parameters


def count_active_parameters(config: GPTConfig) -> int:
    """Return the parameters that training can change: without padded vocabulary rows and without band zeros."""
    C, L = config.n_embd, config.n_layer
    removed = (2 - density(C, config.fc1_band) - density(C, config.fc2_band)) * 4 * C * C * L
    padding = (config.padded_vocab_size - config.vocab_size) * C
    return count_parameters(config) - round(removed) - padding


def dense_flop_per_token(config: GPTConfig, seq_len: int) -> int:
    """Return 6N + 12LCT: the usual count for a training step per token, with N all parameters but positions."""
    position_embeddings = config.max_seq_len * config.n_embd
    padding = (config.padded_vocab_size - config.vocab_size) * config.n_embd
    N = count_parameters(config) - position_embeddings - padding
    return 6 * N + 12 * config.n_layer * config.n_embd * seq_len


def kept_flop_per_token(config: GPTConfig, seq_len: int) -> int:
    """Return the same count without the products that a band makes unnecessary (done or not)."""
    C = config.n_embd
    removed = (2 - density(C, config.fc1_band) - density(C, config.fc2_band)) * 4 * C * C * config.n_layer
    return dense_flop_per_token(config, seq_len) - 6 * round(removed)


def training_bytes(config: GPTConfig) -> dict[str, int]:
    """Return the bytes of what training keeps per parameter, all in float32."""
    n_bytes = 4 * count_parameters(config)
    return {"parameters": n_bytes, "gradients": n_bytes, "first moments": n_bytes, "second moments": n_bytes}
