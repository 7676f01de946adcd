"""What the CUDA core needs of a device, and the two that offer it.

`cuda` is an NVIDIA card driven through CuPy. `host` compiles the same .cu files with g++ and runs them on numpy memory,
thread by thread, so that every kernel can be proven on a machine without a card.

Arrays are cupy.ndarray on cuda and numpy.ndarray on host: slicing, reshaping, viewing, `.shape`, `.dtype` and
`.nbytes` work alike, nothing else of them is used. bfloat16 values are stored as uint16.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray
LaunchSize = int | tuple[int, ...]


class Module(Protocol):
    """One .cu file, compiled with its defines."""

    def launch(self, kernel: str, grid: LaunchSize, block: LaunchSize, **arguments: Array | int | float) -> None:
        """Queue one kernel. Arguments go by the names in its declaration and are cast to the types declared there.

        An array must be contiguous, of this device, and of the dtype that its pointer type asks for; None is a null
        pointer. A missing, unknown or ill-typed argument is a TypeError that names kernel and argument.
        """


class Device(Protocol):
    """Memory, copies, launches and graphs. Everything queues in order on one stream."""

    name: str  # "cuda" or "host"
    device_name: str  # the model of the card or processor
    details: dict[str, object]  # driver, runtime, compute capability, memory ... for the record
    float_dtype: np.dtype  # what `float` is in a kernel: float32 (float64 on a host device made for proofs)
    allocated_bytes: int  # by `empty`, all in all

    def empty(self, n_bytes: int) -> Array:
        """Allocate (n_bytes,) uint8, aligned to 256 bytes, contents undefined. Raises EngineError for want of room."""

    def free_bytes(self) -> int:
        """Return how much memory can still be allocated."""

    def upload(self, target: Array, source: np.ndarray) -> None:
        """Queue a copy to the device; `source` (same shape and dtype) may be changed as soon as this returns."""

    def download(self, source: Array) -> np.ndarray:
        """Wait for everything queued and return a copy."""

    def fill_zero(self, target: Array) -> None:
        """Queue setting every byte to zero."""

    def compile(self, file: str, defines: Mapping[str, int]) -> Module:
        """Compile cuda/`file` with -DNAME=VALUE. Raises InternalError naming file and line."""

    def synchronize(self) -> None:
        """Wait for everything queued."""

    def capture(self, record: Callable[[], None]) -> Callable[[], None]:
        """Record what `record` queues, without running it, and return a function that queues all of it again."""


def address(array: Array) -> int:
    """Return where an array begins, in the memory of its device."""
    return int(array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr)
