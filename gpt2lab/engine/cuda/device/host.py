"""The `host` device: the kernels of cuda/ run on this machine's processor, thread by thread, on numpy memory.

It finds what a card would not tell: accesses outside the arguments, memory read before it is written, races, barriers
that not all threads reach. `checked=True` sees every single access; otherwise guard zones around each allocation and
poisoned contents catch the coarse ones, at about three times the speed.
"""

import bisect
import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from gpt2lab.engine.base import proc_value, processor_name
from gpt2lab.engine.cuda.device.base import Array, LaunchSize
from gpt2lab.engine.cuda.device.base import address as address_of
from gpt2lab.engine.cuda.device.host_build import build_module, build_runtime, compiler, load, source_line
from gpt2lab.engine.cuda.device.sources import (
    Kernel,
    Signature,
    find_cuda_folder,
    launch_shape,
    parse_kernels,
    read_sources,
)
from gpt2lab.errors import EngineError, InternalError

GUARD_BYTES = 4096  # on each side of an allocation
_GUARD_VALUE = 0xA5
_POISON = 0xFF  # NaN as float32, float64 and bfloat16, -1 as a whole number
_ALIGNMENT = 256


class KernelFault(InternalError):  # noqa: N818  # a fault of the kernel, not of its caller
    """A kernel did what it must not; names kernel, block, thread, what it did, and the line where that is known."""


class _Argument(ctypes.Structure):
    """HostArgument of cuda/host/scheduler.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("begin", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("region", ctypes.c_uint64),
        ("item_bytes", ctypes.c_int32),
        ("writable", ctypes.c_int32),
    )


class _Launch(ctypes.Structure):
    """HostLaunch of cuda/host/scheduler.h."""

    _fields_ = (
        ("call", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("n_arguments", ctypes.c_int32),
        ("checked", ctypes.c_int32),
        ("reverse", ctypes.c_int32),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("image", ctypes.c_void_p * 4),
        ("fault_block", ctypes.c_uint32 * 3),
        ("fault_thread", ctypes.c_uint32 * 3),
        ("fault_instruction", ctypes.c_uint64),
        ("fault", ctypes.c_char * 400),
    )


# The scheduler keeps the block that runs in global variables: one launch at a time.
_running = threading.Lock()


@functools.cache
def _runtime() -> ctypes.CDLL:
    library = load(build_runtime())
    library.host_run.argtypes = [ctypes.c_void_p]
    library.host_region_new.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
    library.host_region_new.restype = ctypes.c_uint64
    library.host_region_free.argtypes = [ctypes.c_uint64]
    library.host_region_free.restype = None
    library.host_region_write.argtypes = [ctypes.c_uint64] * 3
    library.host_region_write.restype = None
    library.host_region_unwritten.argtypes = [ctypes.c_uint64] * 3
    library.host_region_unwritten.restype = ctypes.c_int64
    return library


class _Allocation:
    """Memory between two guard zones; lives as long as an array that shows it."""

    def __init__(self, buffer: np.ndarray, begin: int, n_bytes: int, region: int) -> None:
        self.buffer = weakref.ref(buffer)
        self.begin, self.end = begin, begin + n_bytes
        self.region = region  # its shadow, in a checked device; 0 without


class HostDevice:
    """Device (see gpt2lab.engine.cuda.device.base) on this machine's processor.

    checked: see every access; reverse: blocks, and threads of a block, in reverse order; float64: `float` is double in
    the kernels, so that derivatives can be checked by finite differences; folder: where the .cu files are.
    """

    name = "host"

    def __init__(
        self, *, checked: bool = False, reverse: bool = False, float64: bool = False, folder: Path | None = None
    ) -> None:
        self.checked, self.reverse, self.float64 = checked, reverse, float64
        self.folder = folder or find_cuda_folder()
        self.runtime = _runtime()
        self.float_dtype = np.dtype(np.float64 if float64 else np.float32)
        self.device_name = processor_name()
        self.details: dict[str, object] = {"compiler": f"g++ {compiler()[1]}", "cores": os.cpu_count()}
        self.allocated_bytes = 0
        self._begins: list[int] = []  # of the allocations alive, sorted
        self._allocations: dict[int, _Allocation] = {}

    def empty(self, n_bytes: int) -> Array:
        padded = n_bytes + 2 * GUARD_BYTES + _ALIGNMENT
        if padded > self.free_bytes():
            raise EngineError(f"out of memory: {n_bytes} bytes asked for, {self.free_bytes()} free")
        buffer = np.full(padded, _GUARD_VALUE, dtype=np.uint8)
        offset = GUARD_BYTES + -(address_of(buffer) + GUARD_BYTES) % _ALIGNMENT
        array = buffer[offset : offset + n_bytes]
        array.fill(_POISON)
        begin = address_of(buffer) + offset
        region = self.runtime.host_region_new(begin, n_bytes) if self.checked else 0
        if self.checked and not region:
            raise EngineError(f"out of memory: no room for the checks of {n_bytes} bytes")
        bisect.insort(self._begins, begin)
        self._allocations[begin] = _Allocation(buffer, begin, n_bytes, region)
        weakref.finalize(buffer, self._forget, begin).atexit = False
        self.allocated_bytes += n_bytes
        return array

    def _forget(self, begin: int) -> None:
        self._begins.remove(begin)
        region = self._allocations.pop(begin).region
        if region:
            self.runtime.host_region_free(region)

    def allocation_of(self, array: Array, what: str) -> _Allocation:
        """Return the allocation that `array` lies in. Raises TypeError naming `what` when it is not of this device."""
        if isinstance(array, np.ndarray):
            address = address_of(array)
            position = bisect.bisect_right(self._begins, address) - 1
            if position >= 0:
                allocation = self._allocations[self._begins[position]]
                if address + array.nbytes <= allocation.end:
                    return allocation
        raise TypeError(f"{what}: expected an array of this device, got {type(array).__name__}")

    def mark_written(self, target: Array) -> None:
        """Tell the checks that all of a contiguous array was written by other means than a kernel, as numpy does."""
        allocation = self.allocation_of(target, "mark_written")
        if allocation.region:
            self.runtime.host_region_write(allocation.region, address_of(target) - allocation.begin, target.nbytes)

    def require_written(self, source: Array, what: str) -> None:
        """Raise KernelFault naming `what` when part of a contiguous array was never written (if this device checks)."""
        allocation = self.allocation_of(source, what)
        if allocation.region:
            offset = address_of(source) - allocation.begin
            found = self.runtime.host_region_unwritten(allocation.region, offset, source.nbytes)
            if found >= 0:
                raise KernelFault(f"{what}: element {(found - offset) // source.itemsize} was never written")

    def free_bytes(self) -> int:
        # Unlike sysconf, with what the system would give up from its file cache.
        available = proc_value("meminfo", "MemAvailable")
        if available:
            return int(available.split()[0]) << 10
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def upload(self, target: Array, source: np.ndarray) -> None:
        if target.shape != source.shape or target.dtype != source.dtype:
            raise TypeError(f"upload: {source.dtype} {source.shape} into {target.dtype} {target.shape}")
        self.mark_written(target)
        np.copyto(target, source)

    def download(self, source: Array) -> np.ndarray:
        self.synchronize()
        self.allocation_of(source, "download")
        return source.copy()

    def fill_zero(self, target: Array) -> None:
        self.mark_written(target)
        target.fill(0)

    def compile(self, file: str, defines: Mapping[str, int]) -> "HostModule":
        return HostModule(self, file, defines)

    def synchronize(self) -> None:
        for allocation in list(self._allocations.values()):
            buffer = allocation.buffer()
            if buffer is not None:
                self._verify_guards(buffer, allocation)

    def _verify_guards(self, buffer: np.ndarray, allocation: _Allocation) -> None:
        begin, end = allocation.begin - address_of(buffer), allocation.end - address_of(buffer)
        for zone, where in ((buffer[:begin][::-1], "before the beginning"), (buffer[end:], "behind the end")):
            changed = np.flatnonzero(zone != _GUARD_VALUE)
            if changed.size:
                zone.fill(_GUARD_VALUE)
                raise KernelFault(
                    f"a kernel wrote {changed[0]} bytes {where} of an allocation of {end - begin} bytes;"
                    " HostDevice(checked=True) names the kernel"
                )

    def capture(self, record: Callable[[], None]) -> Callable[[], None]:
        """Return `record`, not run: there is nothing to gain from a graph on a processor."""
        return record


class HostModule:
    """One .cu file, compiled by g++ and loaded."""

    def __init__(self, device: HostDevice, file: str, defines: Mapping[str, int]) -> None:
        self._device, self._file = device, file
        kernels = parse_kernels(read_sources(device.folder, file)[file])
        self._path = build_module(
            device.folder, file, list(kernels.values()), defines, checked=device.checked, float64=device.float64
        )
        library = load(self._path)
        self._kernels = {
            name: _HostKernel(
                device, library, self._path, Signature(kernel, float_dtype=device.float_dtype, defines=defines)
            )
            for name, kernel in kernels.items()
        }

    def launch(self, kernel: str, grid: LaunchSize, block: LaunchSize, **arguments: Array | int | float | None) -> None:
        if kernel not in self._kernels:
            raise TypeError(f"{self._file} has no kernel {kernel}; it has {', '.join(self._kernels)}")
        self._kernels[kernel].run(grid, block, arguments)


class _HostKernel:
    """One kernel, with the structures of a launch made once and filled anew each time."""

    def __init__(self, device: HostDevice, library: ctypes.CDLL, path: Path, signature: Signature) -> None:
        kernel: Kernel = signature.kernel
        self._device, self._signature, self._path = device, signature, path
        self._max_threads = ctypes.c_int.in_dll(library, f"host_max_threads_{kernel.name}").value
        n = len(kernel.parameters)
        self._values = np.zeros(n, dtype=np.uint64)  # each argument in 8 bytes
        self._slots = [self._values[i : i + 1].view(dtype) for i, dtype in enumerate(signature.dtypes)]
        self._pointers = address_of(self._values) + 8 * np.arange(n, dtype=np.uint64)
        self._arguments = (_Argument * n)()
        pointers = [(i, p) for i, p in enumerate(kernel.parameters) if p.is_pointer]
        for place, (i, parameter) in zip(self._arguments, pointers, strict=False):
            place.name, place.writable = parameter.name.encode(), not parameter.is_const
            place.item_bytes = signature.dtypes[i].itemsize
        self._launch = _Launch(
            call=ctypes.cast(getattr(library, f"host_call_{kernel.name}"), ctypes.c_void_p),
            values=address_of(self._pointers),
            arguments=ctypes.addressof(self._arguments),
            n_arguments=len(pointers),
            checked=device.checked,
            reverse=device.reverse,
            image=(ctypes.c_void_p * 4).in_dll(library, "host_image"),
        )

    def run(self, grid: LaunchSize, block: LaunchSize, arguments: Mapping[str, Array | int | float | None]) -> None:
        kernel, launch = self._signature.kernel, self._launch
        values = self._signature.bind(arguments)
        with _running:
            launch.grid[:], launch.block[:] = launch_shape(kernel.name, grid, block, self._max_threads)
            place = 0
            for i, (parameter, value) in enumerate(zip(kernel.parameters, values, strict=True)):
                if not parameter.is_pointer:
                    self._slots[i][0] = value
                    continue
                argument = self._arguments[place]
                place += 1
                argument.begin = argument.end = argument.region = 0
                if value is not None:
                    allocation = self._device.allocation_of(value, f"{kernel.name}: `{parameter.name}`")
                    argument.begin = address_of(value)
                    argument.end, argument.region = argument.begin + value.nbytes, allocation.region
                self._values[i] = argument.begin
            if self._device.runtime.host_run(ctypes.addressof(launch)):
                raise KernelFault(self._fault())

    def _fault(self) -> str:
        launch = self._launch
        block, thread = (_place(index[:]) for index in (launch.fault_block, launch.fault_thread))
        text = f"{self._signature.kernel.name}: block {block}, thread {thread}: {launch.fault.decode()}"
        # The address is where the call returns to: one byte before it is still the call.
        offset = launch.fault_instruction - (launch.image[2] or 0) - 1
        line = source_line(self._path, offset) if launch.fault_instruction else None
        return f"{text} ({line})" if line else text


def _place(index: list[int]) -> str:
    """(x, y, z) without the zeros that say nothing."""
    return str(index[0]) if index[1:] == [0, 0] else str(tuple(index))
