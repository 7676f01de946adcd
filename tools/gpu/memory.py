"""Arrays to measure with, and giving memory back between measurements."""

import functools
import gc
import sys

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.numerics import Numerics, to_bfloat16

_BLOCK = 1 << 22  # random values are made once and repeated: what they are does not matter, that they are not zero does


def empty(device: Device, shape: tuple[int, ...], dtype: np.dtype | type) -> Array:
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return device.empty(n_bytes).view(np.dtype(dtype)).reshape(shape)


def random_array(device: Device, shape: tuple[int, ...], dtype: np.dtype | type, *, scale: float = 1.0) -> Array:
    """Return an array of normal random numbers; uint16 holds bfloat16, as everywhere."""
    size, block = int(np.prod(shape, dtype=np.int64)), _random_block(np.dtype(dtype), scale)
    array = empty(device, (size,), dtype)
    for begin in range(0, size, _BLOCK):
        part = array[begin : begin + _BLOCK]
        device.upload(part, block[: part.size])
    return array.reshape(shape)


@functools.lru_cache(maxsize=4)
def _random_block(dtype: np.dtype, scale: float) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(_BLOCK, dtype=np.float32) * np.float32(scale)
    return to_bfloat16(values) if dtype == np.uint16 else values.astype(dtype)


def random_act(device: Device, numerics: Numerics, *shape: int, scale: float = 1.0) -> Array:
    return random_array(device, shape, numerics.act_dtype, scale=scale)


def release() -> None:
    """Give the memory of everything that is no longer used back to the card: CuPy's pools, and PyTorch's."""
    gc.collect()
    cupy = sys.modules.get("cupy")
    if cupy and cupy.is_available():
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
