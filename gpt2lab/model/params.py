"""The one table of GPT-2's 16 tensors, in the order llm.c writes them.

Initialisation, checkpoints, engines, weight decay and the Hugging Face names all follow from it.
Source: llm.c `train_gpt2.c` (ParameterTensors); GPT-2 (Radford et al., 2019).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2lab.errors import ConfigError

Params = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """Shape of a GPT-2 model and the bands on its MLP matrices.

    Bands are full widths in hidden units; 0 means dense (see `model/bands.py`).
    Raises ConfigError for a shape that no model can have.
    """

    n_layer: int
    n_head: int
    n_embd: int
    max_seq_len: int
    vocab_size: int
    padded_vocab_size: int = 0  # 0: the next multiple of 128, as llm.c's exporter pads
    fc1_band: int = 0
    fc2_band: int = 0

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "max_seq_len", "vocab_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)}: expected a positive number")
        for name in ("fc1_band", "fc2_band"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: expected 0 (dense) or a width in hidden units above 0"
                )
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"model.n_embd={self.n_embd} is not divisible by model.n_head={self.n_head}: each head takes "
                "n_embd / n_head channels; change one of them"
            )
        if not self.padded_vocab_size:
            object.__setattr__(self, "padded_vocab_size", padded_vocab_size(self.vocab_size))
        if self.padded_vocab_size < self.vocab_size:
            raise ConfigError(f"padded_vocab_size={self.padded_vocab_size} is below vocab_size={self.vocab_size}")

    @property
    def head_size(self) -> int:
        """HS, channels per attention head."""
        return self.n_embd // self.n_head

    @property
    def n_hidden(self) -> int:
        """F = 4C, hidden units of the MLP."""
        return 4 * self.n_embd

    @property
    def bands(self) -> dict[str, int]:
        """Full width of the band on each MLP matrix, in hidden units; 0 = dense."""
        return {"fc1": self.fc1_band, "fc2": self.fc2_band}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One row of the table. `dims` names the axes by shape letter; Vp, P are padded vocabulary and positions."""

    name: str
    dims: tuple[str, ...]
    init: str  # "normal", "residual" (normal, scaled by 1/sqrt(2L)), "zeros" or "ones"
    decays: bool  # matrices and embeddings, as nanoGPT's dim >= 2 rule
    hf_name: str  # Hugging Face name; {i} is the layer
    hf_transposed: bool = False  # Hugging Face keeps this matrix as (in, out)

    @property
    def per_layer(self) -> bool:
        return self.dims[0] == "L"


def _spec(name: str, dims: str, init: str, decays: bool, hf_name: str, hf_transposed: bool = False) -> TensorSpec:
    return TensorSpec(
        name=name, dims=tuple(dims.split()), init=init, decays=decays, hf_name=hf_name, hf_transposed=hf_transposed
    )


TENSORS: tuple[TensorSpec, ...] = (
    _spec("wte", "Vp C", "normal", True, "transformer.wte.weight"),
    _spec("wpe", "P C", "normal", True, "transformer.wpe.weight"),
    _spec("ln1w", "L C", "ones", False, "transformer.h.{i}.ln_1.weight"),
    _spec("ln1b", "L C", "zeros", False, "transformer.h.{i}.ln_1.bias"),
    _spec("qkvw", "L 3C C", "normal", True, "transformer.h.{i}.attn.c_attn.weight", True),
    _spec("qkvb", "L 3C", "zeros", False, "transformer.h.{i}.attn.c_attn.bias"),
    _spec("attprojw", "L C C", "residual", True, "transformer.h.{i}.attn.c_proj.weight", True),
    _spec("attprojb", "L C", "zeros", False, "transformer.h.{i}.attn.c_proj.bias"),
    _spec("ln2w", "L C", "ones", False, "transformer.h.{i}.ln_2.weight"),
    _spec("ln2b", "L C", "zeros", False, "transformer.h.{i}.ln_2.bias"),
    _spec("fcw", "L F C", "normal", True, "transformer.h.{i}.mlp.c_fc.weight", True),
    _spec("fcb", "L F", "zeros", False, "transformer.h.{i}.mlp.c_fc.bias"),
    _spec("fcprojw", "L C F", "residual", True, "transformer.h.{i}.mlp.c_proj.weight", True),
    _spec("fcprojb", "L C", "zeros", False, "transformer.h.{i}.mlp.c_proj.bias"),
    _spec("lnfw", "C", "ones", False, "transformer.ln_f.weight"),
    _spec("lnfb", "C", "zeros", False, "transformer.ln_f.bias"),
)


def padded_vocab_size(vocab_size: int) -> int:
    """Return V rounded up to a multiple of 128."""
    return -(-vocab_size // 128) * 128


def tensor_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of the 16 tensors, in file order; per-layer tensors lead with L."""
    sizes = {
        "L": config.n_layer,
        "C": config.n_embd,
        "3C": 3 * config.n_embd,
        "F": config.n_hidden,
        "P": config.max_seq_len,
        "Vp": config.padded_vocab_size,
    }
    return {spec.name: tuple(sizes[dim] for dim in spec.dims) for spec in TENSORS}


def count_parameters(config: GPTConfig) -> int:
    """Return the number of parameters stored, padded vocabulary rows and band zeros included."""
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def split_flat(flat: Any, config: GPTConfig) -> dict[str, Any]:
    """Return the 16 tensors as views of a flat array (parameters,), of numpy or CuPy, in file order."""
    found, end = {}, 0
    for name, shape in tensor_shapes(config).items():
        start, end = end, end + math.prod(shape)
        found[name] = flat[start:end].reshape(shape)
    return found


def check_params(params: Mapping[str, np.ndarray], config: GPTConfig) -> None:
    """Assert that `params` holds the 16 tensors of `config` with their shapes."""
    shapes = tensor_shapes(config)
    assert list(params) == list(shapes), f"tensors {list(params)}, expected {list(shapes)}"
    for name, shape in shapes.items():
        assert params[name].shape == shape, f"{name} is {params[name].shape}, expected {shape}"
