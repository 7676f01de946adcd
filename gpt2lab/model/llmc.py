"""llm.c's checkpoint and debug-state files.

Checkpoint: 256 int32 (magic 20240326; version 3 float32 or 5 bfloat16; max_seq_len, vocab_size, n_layer, n_head,
n_embd, padded_vocab_size), then the 16 tensors. Debug state: 256 int32 (magic 20240327, version 2, B, T), then
x and y (int32), logits (B, T, V), loss and the 16 gradients in float32. Source: llm.c `train_gpt2.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpt2lab.errors import ConfigError, DataError
from gpt2lab.model.params import GPTConfig, Params, check_params, count_parameters, split_flat

HEADER_INTS = 256
CHECKPOINT_MAGIC = 20240326
DEBUG_STATE_MAGIC = 20240327
FLOAT32_VERSION = 3
BFLOAT16_VERSION = 5
DEBUG_STATE_VERSION = 2
SHAPE_FIELDS = ("max_seq_len", "vocab_size", "n_layer", "n_head", "n_embd", "padded_vocab_size")  # as in the header
# Larger than any GPT-2; a header beyond it is damage, and must not become an allocation.
MAX_DIMENSION = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugState:
    """What llm.c computed for one batch: the reference for a parity check."""

    inputs: np.ndarray  # (B, T) int32
    targets: np.ndarray  # (B, T) int32
    logits: np.ndarray  # (B, T, V) float32
    loss: float  # mean nats over all B*T positions
    gradients: Params  # the 16 tensors, float32, gradients of that mean


def write_checkpoint(file: BinaryIO, params: Params, config: GPTConfig) -> None:
    """Write a version 3 checkpoint (float32) of `params` to an open binary file."""
    check_params(params, config)
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:8] = (CHECKPOINT_MAGIC, FLOAT32_VERSION, *(getattr(config, name) for name in SHAPE_FIELDS))
    file.write(header.tobytes())
    for array in params.values():
        file.write(np.ascontiguousarray(array, dtype="<f4").tobytes())


def read_checkpoint(path: Path) -> tuple[Params, GPTConfig]:
    """Read a checkpoint, version 3 or 5, as float32 tensors and their shape (bands are not part of the file).

    Raises DataError naming the file when it is missing, is not a checkpoint, or has the wrong size.
    """
    config, dtype = _read_shape(path)
    flat = np.fromfile(path, dtype=dtype, offset=4 * HEADER_INTS)
    if dtype.itemsize == 2:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return split_flat(flat.astype(np.float32, copy=False), config), config


def read_shape(path: Path) -> GPTConfig:
    """Read the shape of a checkpoint without its tensors. Raises DataError as `read_checkpoint` does."""
    return _read_shape(path)[0]


def _read_shape(path: Path) -> tuple[GPTConfig, np.dtype]:
    """Return shape and type on disk of a checkpoint that has the size its header asks for."""
    header = _read_header(path, CHECKPOINT_MAGIC, "an llm.c checkpoint", (FLOAT32_VERSION, BFLOAT16_VERSION))
    shape = dict(zip(SHAPE_FIELDS, header[2:8].tolist(), strict=True))
    try:
        if max(shape.values()) > MAX_DIMENSION:
            raise ConfigError(f"a dimension above {MAX_DIMENSION}")
        config = GPTConfig(**shape)
    except ConfigError as error:
        raise DataError(
            f"{path}: the header describes no model that can exist ({error}); the file is damaged"
        ) from None
    dtype = np.dtype("<f4") if header[1] == FLOAT32_VERSION else np.dtype("<u2")
    _check_size(path, 4 * HEADER_INTS + count_parameters(config) * dtype.itemsize)
    return config, dtype


def read_tensors(path: Path, config: GPTConfig) -> Params:
    """Read the 16 tensors of `config` from a file of bare float32 without a header."""
    _check_size(path, 4 * count_parameters(config))
    return split_flat(np.fromfile(path, dtype="<f4"), config)


def read_debug_state(path: Path, config: GPTConfig) -> DebugState:
    """Read the debug state that llm.c wrote for a checkpoint of shape `config`. Raises DataError."""
    header = _read_header(path, DEBUG_STATE_MAGIC, "an llm.c debug state", (DEBUG_STATE_VERSION,))
    B, T = int(header[2]), int(header[3])
    if not (0 < B <= MAX_DIMENSION and 0 < T <= config.max_seq_len):
        raise DataError(
            f"{path}: B={B}, T={T} in the header; expected B of at least 1 and T up to {config.max_seq_len}"
        )
    n_logits = B * T * config.vocab_size
    n_params = count_parameters(config)
    _check_size(path, 4 * (HEADER_INTS + 2 * B * T + n_logits + 1 + n_params))
    with path.open("rb") as file:
        file.seek(4 * HEADER_INTS)
        inputs = np.fromfile(file, dtype="<i4", count=B * T).reshape(B, T)
        targets = np.fromfile(file, dtype="<i4", count=B * T).reshape(B, T)
        logits = np.fromfile(file, dtype="<f4", count=n_logits).reshape(B, T, config.vocab_size)
        loss = float(np.fromfile(file, dtype="<f4", count=1)[0])
        gradients = split_flat(np.fromfile(file, dtype="<f4", count=n_params), config)
    for name, tokens in (("inputs", inputs), ("targets", targets)):
        if tokens.min() < 0 or tokens.max() >= config.vocab_size:
            raise DataError(f"{path}: {name} hold tokens outside 0 ... {config.vocab_size - 1}; the file is damaged")
    return DebugState(inputs=inputs, targets=targets, logits=logits, loss=loss, gradients=gradients)


def _read_header(path: Path, magic: int, kind: str, versions: tuple[int, ...]) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected {kind}")
    header = np.fromfile(path, dtype="<i4", count=HEADER_INTS)
    if header.size < HEADER_INTS:
        raise DataError(f"{path}: {path.stat().st_size} bytes, too short for the header of {kind}")
    if header[0] != magic:
        raise DataError(f"{path}: magic number {header[0]}, expected {magic}; this is not {kind}")
    if header[1] not in versions:
        known = " or ".join(str(version) for version in versions)
        raise DataError(f"{path}: version {header[1]} of {kind}, expected {known}; export it again")
    return header


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    size = path.stat().st_size
    if size != expected:
        what = "truncated" if size < expected else "longer than its header says"
        raise DataError(f"{path}: {size} bytes, expected {expected}; the file is {what}")
