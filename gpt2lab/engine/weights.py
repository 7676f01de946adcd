"""Weights by name, as `model.init_from` and the commands write it: an llm.c checkpoint file, or hf:NAME."""

from pathlib import Path

from gpt2lab.model.llmc import read_checkpoint, read_shape
from gpt2lab.model.params import GPTConfig, Params

_HUGGING_FACE = "hf:"


def is_published(name: str) -> bool:
    """Whether `name` is a model of Hugging Face, not a file."""
    return name.startswith(_HUGGING_FACE)


def read_weights(name: str) -> tuple[Params, GPTConfig]:
    """Return the 16 tensors and their shape; bands are not part of either.

    Raises ConfigError for an unknown name, DataError for weights that cannot be read.
    """
    if not is_published(name):
        return read_checkpoint(Path(name))
    from gpt2lab.engine.torch.pretrained import read_pretrained  # torch takes seconds to import

    shape, params = read_pretrained(name.removeprefix(_HUGGING_FACE))
    return params, shape


def read_weights_shape(name: str) -> GPTConfig:
    """Return the shape alone; raises as `read_weights`."""
    return read_weights(name)[1] if is_published(name) else read_shape(Path(name))
