"""OpenAI's GPT-2 weights through transformers, and export back to a transformers model."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt2lab.errors import ConfigError, DataError
from gpt2lab.model.huggingface import from_huggingface, to_huggingface
from gpt2lab.model.params import GPTConfig, Params

PRETRAINED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def read_pretrained(name: str) -> tuple[GPTConfig, Params]:
    """Return shape and 16 tensors of a published GPT-2, or of a folder that `save_pretrained` wrote.

    Raises ConfigError for an unknown name or without transformers, DataError when nothing can be loaded.
    """
    if name not in PRETRAINED and not Path(name).is_dir():
        raise ConfigError(f"hf:{name}: unknown model; expected one of {', '.join(PRETRAINED)}, or a folder")
    transformers = _import_transformers()
    # Its own lines about retries say less than the one that follows.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    try:
        model = transformers.GPT2LMHeadModel.from_pretrained(name, dtype=torch.float32)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"hf:{name}: cannot be loaded ({reason}); with no network, place the model's folder on disk and use "
            "hf:FOLDER, or use an llm.c checkpoint file"
        ) from None
    return from_transformers(model)


def from_transformers(model: Any) -> tuple[GPTConfig, Params]:
    """Return shape and 16 tensors of a transformers GPT2LMHeadModel. Raises DataError for a variant of GPT-2."""
    hf = model.config
    if hf.n_inner not in (None, 4 * hf.n_embd) or hf.activation_function != "gelu_new":
        raise DataError(
            f"Hugging Face checkpoint: n_inner={hf.n_inner}, activation {hf.activation_function}; "
            f"expected {4 * hf.n_embd} and gelu_new, as GPT-2 has"
        )
    config = GPTConfig(
        n_layer=hf.n_layer, n_head=hf.n_head, n_embd=hf.n_embd, max_seq_len=hf.n_positions, vocab_size=hf.vocab_size
    )
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    return config, from_huggingface(state, config)


def to_transformers(config: GPTConfig, params: Params) -> Any:
    """Return a transformers GPT2LMHeadModel that holds the 16 tensors."""
    transformers = _import_transformers()
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_seq_len,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            bos_token_id=config.vocab_size - 1,
            eos_token_id=config.vocab_size - 1,
        )
    )
    state = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in to_huggingface(params, config).items()}
    model.load_state_dict(state)
    return model.eval()


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigError("Hugging Face models need transformers: pip install 'gpt2lab[hf]'") from None
    return transformers
