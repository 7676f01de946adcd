"""In which formats the CUDA core stores and multiplies."""

import math
from dataclasses import dataclass

import numpy as np

from gpt2lab.engine.cuda.device import Device
from gpt2lab.schema import Precision


@dataclass(frozen=True, slots=True)
class Numerics:
    """Formats of one engine: parameters, gradients, moments, sums in float; activations and products as `precision`.

    `float_dtype` is float32, or float64 on a host device made for proofs.
    """

    precision: Precision
    float_dtype: np.dtype

    @classmethod
    def of(cls, device: Device, precision: Precision) -> "Numerics":
        return cls(precision, device.float_dtype)

    @property
    def act_dtype(self) -> np.dtype:
        """dtype that holds act_t; bfloat16 is kept as uint16."""
        return np.dtype(np.uint16) if self.precision is Precision.bf16 else self.float_dtype

    @property
    def defines(self) -> dict[str, int]:
        """What every kernel is compiled with."""
        return {"ACT_BF16": int(self.precision is Precision.bf16)}

    def pack(self, row_len: int) -> int:
        """Return how many act_t of a row one access takes: a power of two, up to 16 bytes, that divides `row_len`."""
        return math.gcd(16 // self.act_dtype.itemsize, row_len)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float values to bfloat16, to nearest even, and return the bits as uint16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 bits (uint16) as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
