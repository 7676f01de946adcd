"""Arrays of one device in the formats of one precision, beside the float64 values that they hold exactly."""

from collections.abc import Callable

import numpy as np
from proof import Check, tolerance

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.numerics import Numerics, from_bfloat16, to_bfloat16
from gpt2lab.schema import Precision


class Arrays:
    """Makes and reads arrays; every proof draws its random numbers from `rng`."""

    def __init__(self, device: Device, precision: Precision) -> None:
        self.device, self.numerics = device, Numerics.of(device, precision)
        self.rng = np.random.default_rng(3)
        self.compute = "fp64" if device.float_dtype == np.float64 else "fp32"
        self.store = "bf16" if precision is Precision.bf16 else self.compute

    def upload(self, values: np.ndarray) -> Array:
        array = self.empty(values.shape, values.dtype)
        self.device.upload(array, np.ascontiguousarray(values))
        return array

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """Poisoned: nan, or -1 for whole numbers, until something is written."""
        array = self.device.empty(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        if self.device.name != "host":  # which poisons by itself, and notices when poison is read
            self.device.upload(array, np.full(array.shape, 0xFF, dtype=np.uint8))
        return array.view(dtype).reshape(shape)

    def empty_act(self, *shape: int) -> Array:
        return self.empty(shape, self.numerics.act_dtype)

    def empty_float(self, *shape: int) -> Array:
        return self.empty(shape, self.numerics.float_dtype)

    def act(self, values: np.ndarray) -> tuple[Array, np.ndarray]:
        """Upload values as act_t; return the array and what it holds, float64."""
        bf16 = self.numerics.act_dtype == np.uint16
        array = self.upload(to_bfloat16(values) if bf16 else values.astype(self.numerics.act_dtype))
        return array, self.values(array)

    def float(self, values: np.ndarray) -> tuple[Array, np.ndarray]:
        """Upload values as float; return the array and what it holds, float64."""
        array = self.upload(np.asarray(values).astype(self.numerics.float_dtype))
        return array, self.values(array)

    def int(self, values: np.ndarray) -> Array:
        return self.upload(np.asarray(values, dtype=np.int32))

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape)

    def values(self, array: Array) -> np.ndarray:
        """Download an array of act_t or float as float64."""
        found = self.device.download(array)
        return (from_bfloat16(found) if found.dtype == np.uint16 else found).astype(np.float64)

    def act_tolerance(self, terms: int, roundings: int = 1) -> float:
        """What a result stored as act_t may be off by."""
        return tolerance(terms=terms, compute=self.compute, store=self.store, roundings=roundings)

    def float_tolerance(self, terms: int, roundings: int = 1) -> float:
        """What a result stored as float may be off by."""
        return tolerance(terms=terms, compute=self.compute, store=self.compute, roundings=roundings)


def same(name: str, found: np.ndarray, expected: np.ndarray) -> Check:
    """Return a check that passes when every bit is equal; nan of one bit pattern is equal to itself."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, name
    return Check(name=name, error=float(found.tobytes() != expected.tobytes()), tolerance=0.0)


def twice_the_same(name: str, run: Callable[[], list[np.ndarray]]) -> tuple[list[np.ndarray], Check]:
    """Run twice; return the first results and a check that the second have the same bits."""
    first, second = run(), run()
    differing = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a.tobytes() != b.tobytes()]
    return first, Check(name=f"{name}: the same bits twice", error=float(len(differing)), tolerance=0.0)
