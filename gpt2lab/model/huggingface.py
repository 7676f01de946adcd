"""Hugging Face GPT-2 state dicts, as numpy arrays, to and from the 16 tensors.

Hugging Face keeps the four projection matrices as (in, out); ours are (out, in).
"""

from collections.abc import Mapping

import numpy as np

from gpt2lab.errors import DataError
from gpt2lab.model.params import TENSORS, GPTConfig, Params, TensorSpec, tensor_shapes


def from_huggingface(state: Mapping[str, np.ndarray], config: GPTConfig) -> Params:
    """Return the 16 tensors, float32, from a GPT2LMHeadModel state dict.

    Vocabulary rows are padded with zeros to `config.padded_vocab_size`. Raises DataError for a missing tensor, a
    tensor nobody knows, or a wrong shape.
    """
    remaining = set(state) - {"lm_head.weight"}  # tied to wte
    params: Params = {}
    for spec in TENSORS:
        shape = tensor_shapes(config)[spec.name]
        array = np.zeros(shape, dtype=np.float32)
        for layer, name in _names(spec, config):
            expected = _hf_shape(spec, shape, config)
            if name not in state:
                raise DataError(f"Hugging Face checkpoint: no tensor {name}; expected shape {expected}")
            if state[name].shape != expected:
                raise DataError(f"Hugging Face checkpoint: {name} is {state[name].shape}, expected {expected}")
            value = state[name].T if spec.hf_transposed else state[name]
            if spec.name == "wte":
                array[: config.vocab_size] = value
            else:
                array[layer] = value
            remaining.discard(name)
        params[spec.name] = array
    # Causal masks are buffers that older files carry.
    unknown = sorted(name for name in remaining if not name.endswith((".attn.bias", ".attn.masked_bias")))
    if unknown:
        raise DataError(f"Hugging Face checkpoint: unknown tensor {unknown[0]}; this is not a GPT-2")
    return params


def to_huggingface(params: Params, config: GPTConfig) -> dict[str, np.ndarray]:
    """Return a GPT2LMHeadModel state dict (float32) of the 16 tensors, without padded vocabulary rows."""
    state: dict[str, np.ndarray] = {}
    for spec in TENSORS:
        for layer, name in _names(spec, config):
            value = params[spec.name][: config.vocab_size] if spec.name == "wte" else params[spec.name][layer]
            state[name] = np.ascontiguousarray(value.T if spec.hf_transposed else value)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def _names(spec: TensorSpec, config: GPTConfig) -> list[tuple[int | slice, str]]:
    if spec.per_layer:
        return [(layer, spec.hf_name.format(i=layer)) for layer in range(config.n_layer)]
    return [(slice(None), spec.hf_name)]


def _hf_shape(spec: TensorSpec, shape: tuple[int, ...], config: GPTConfig) -> tuple[int, ...]:
    if spec.name == "wte":
        return (config.vocab_size, config.n_embd)
    shape = shape[1:] if spec.per_layer else shape
    return shape[::-1] if spec.hf_transposed else shape
