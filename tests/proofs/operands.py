"""Arrays of a device for proofs: made from float64 values, read back as float64 values."""

import numpy as np

from gpt2lab.engine.device import Array, Device
from gpt2lab.engine.numerics import Numerics, from_bfloat16, to_bfloat16
from gpt2lab.schema import Precision

BF16 = np.dtype(np.uint16)


class Arrays:
    """Random values of one seed, in the formats of one device and precision."""

    def __init__(self, device: Device, precision: Precision, *, seed: int = 1) -> None:
        self.device, self.numerics = device, Numerics.of(device, precision)
        self.rng = np.random.default_rng(seed)
        in_proof_mode = device.float_dtype == np.float64
        # What tolerance() calls the formats of kernels, of products and of what is stored as act_t.
        self.compute = "fp64" if in_proof_mode else "fp32"
        self.products = "tf32" if precision is Precision.tf32 and not in_proof_mode else self.compute
        self.store = "bf16" if precision is Precision.bf16 else self.compute

    def act(self, values: np.ndarray) -> Array:
        """Return values as act_t on the device."""
        return self._upload(to_bfloat16(values) if self.numerics.act_dtype == BF16 else values, self.numerics.act_dtype)

    def real(self, values: np.ndarray) -> Array:
        """Return values as float on the device."""
        return self._upload(values, self.numerics.float_dtype)

    def poisoned(self, *shape: int, dtype: np.dtype | None = None) -> Array:
        """Return act_t (or dtype) that is NaN on the device, and counts as never written where that is noticed."""
        dtype = dtype or self.numerics.act_dtype
        array = self.device.empty(int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)
        if self.device.name != "host":  # whose memory is NaN from the start
            self.device.upload(array, np.full(array.nbytes, 0xFF, dtype=np.uint8).view(dtype).reshape(shape))
        return array

    def random_act(self, *shape: int) -> tuple[Array, np.ndarray]:
        """Return normal values as act_t on the device, and the same rounded values in float64."""
        array = self.act(self.rng.normal(size=shape))
        return array, self.read(array)

    def random_real(self, *shape: int) -> tuple[Array, np.ndarray]:
        """Return normal values as float on the device, and the same rounded values in float64."""
        array = self.real(self.rng.normal(size=shape))
        return array, self.read(array)

    def read(self, array: Array) -> np.ndarray:
        """Return an array of the device in float64."""
        values = self.device.download(array)
        return (from_bfloat16(values) if values.dtype == BF16 else values).astype(np.float64)

    def _upload(self, values: np.ndarray, dtype: np.dtype) -> Array:
        array = self.device.empty(values.size * dtype.itemsize).view(dtype).reshape(values.shape)
        self.device.upload(array, values.astype(dtype))
        return array
