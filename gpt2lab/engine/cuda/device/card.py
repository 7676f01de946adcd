"""The `cuda` device: an NVIDIA card, driven through CuPy.

Written against the sources of CuPy 14.2 on a machine without a card: what was run there is the choice of the device,
its error messages, the compilation (offline), and, against a stand-in for CuPy, the order and types of arguments, the
staging of uploads and the flow of a capture. tools/gpu_check.py runs the rest, on a card.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gpt2lab.engine.cuda.device.base import Array, LaunchSize
from gpt2lab.engine.cuda.device.offline import compile_error, compile_options
from gpt2lab.engine.cuda.device.sources import Signature, find_cuda_folder, launch_shape, parse_kernels, read_sources
from gpt2lab.errors import EngineError, InternalError

# Uploads up to this size, such as the tokens of a step, are staged and need no wait; larger ones, such as a checkpoint,
# are waited for.
_STAGED_BYTES = 16 << 20
_NULL = np.uint64(0)  # CuPy would pass None as a missing argument, not as a null pointer
_INSTEAD = "choose engine=torch, or engine.device=host to run the kernels on the processor"


def load_cupy() -> ModuleType:
    """Return cupy, once it is certain that a card can be used. Raises EngineError that says what was found."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise EngineError(f"CuPy cannot be imported: {error}; {_INSTEAD}") from None
        raise EngineError(
            "engine.device=cuda needs CuPy, which is not installed: pip install 'gpt2lab[cuda13]' (cuda12 for a driver"
            f" older than 580); or {_INSTEAD}"
        ) from None
    except ImportError as error:
        raise EngineError(f"CuPy cannot be imported: {str(error).strip().splitlines()[0]}; {_INSTEAD}") from None
    runtime = cupy.cuda.runtime
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    found = f"CuPy {cupy.__version__} for CUDA {_version(built)} is installed"
    if driver == 0:
        raise EngineError(f"{found}, but no NVIDIA driver was found; {_INSTEAD}")
    # Minor versions are compatible (CUDA Compatibility guide, minor version compatibility).
    if driver // 1000 < built // 1000:
        other = (
            f", or install cupy-cuda{driver // 1000}x instead" if driver >= 12000 else ""
        )  # CuPy 14 has no older one
        raise EngineError(
            f"{found}, but the driver is made for CUDA {_version(driver)}: update it{other}; or {_INSTEAD}"
        )
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise EngineError(f"{found}, and a driver, but no card can be used: {error}; {_INSTEAD}") from None
    if count == 0:
        raise EngineError(f"{found}, and a driver, but no card (is CUDA_VISIBLE_DEVICES empty?); {_INSTEAD}")
    return cupy


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


class CudaDevice:
    """Device (see gpt2lab.engine.cuda.device.base) on the current NVIDIA card.

    Everything queues on one stream of its own, which does not wait for the default stream; libraries that are called
    beside it queue on `stream_pointer`.
    """

    name = "cuda"
    float_dtype = np.dtype(np.float32)

    def __init__(self, *, folder: Path | None = None) -> None:
        self.cupy: Any = load_cupy()
        self.runtime = self.cupy.cuda.runtime
        self.folder = folder or find_cuda_folder()
        self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.stream_pointer: int = self.stream.ptr
        number = self.runtime.getDevice()
        properties = self.runtime.getDeviceProperties(number)
        self.device_name: str = properties["name"].decode()
        self.details: dict[str, object] = {
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "multiprocessors": properties["multiProcessorCount"],
            "memory_mib": properties["totalGlobalMem"] >> 20,
            "driver_cuda": _version(self.runtime.driverGetVersion()),
            "runtime_cuda": _version(self.runtime.runtimeGetVersion()),
            "cupy": self.cupy.__version__,
        }
        self.allocated_bytes = 0
        self._staging: dict[tuple[int, int], _Staging] = {}
        self._capturing = False

    def empty(self, n_bytes: int) -> Array:
        with self.stream:  # CuPy hands memory that is freed on a stream out again on that stream only
            try:
                array = self.cupy.empty(n_bytes, dtype=np.uint8)
            except (self.cupy.cuda.memory.OutOfMemoryError, self.runtime.CUDARuntimeError) as error:
                free = self.free_bytes() >> 20
                raise EngineError(f"out of device memory: {n_bytes >> 20} MiB asked for, {free} MiB free") from error
        assert array.data.ptr % 256 == 0
        self.allocated_bytes += n_bytes
        return array

    def free_bytes(self) -> int:
        return self.runtime.memGetInfo()[0] + self.cupy.get_default_memory_pool().free_bytes()

    def upload(self, target: Array, source: np.ndarray) -> None:
        if target.shape != source.shape or target.dtype != source.dtype:
            raise TypeError(f"upload: {source.dtype} {source.shape} into {target.dtype} {target.shape}")
        if self._capturing:
            raise InternalError(
                "upload: a graph would copy the same values at every replay; upload before it is launched"
            )
        pointer, n_bytes = self._pointer(target, "upload"), target.nbytes
        source = np.ascontiguousarray(source)
        if n_bytes == 0:
            return
        with self._async_errors():
            if n_bytes <= _STAGED_BYTES:
                key = (pointer, n_bytes)
                staging = self._staging.get(key) or self._staging.setdefault(key, _Staging(self.cupy, n_bytes))
                staging.copy(source, pointer, self.stream)
            else:
                kind = self.runtime.memcpyHostToDevice
                self.runtime.memcpyAsync(pointer, source.ctypes.data, n_bytes, kind, self.stream_pointer)
                self.stream.synchronize()

    def download(self, source: Array) -> np.ndarray:
        pointer = self._pointer(source, "download")
        target = np.empty(source.shape, dtype=source.dtype)
        with self._async_errors():
            if target.nbytes:
                kind = self.runtime.memcpyDeviceToHost
                self.runtime.memcpyAsync(target.ctypes.data, pointer, target.nbytes, kind, self.stream_pointer)
            self.stream.synchronize()
        return target

    def fill_zero(self, target: Array) -> None:
        pointer = self._pointer(target, "fill_zero")
        if target.nbytes:
            with self._async_errors():
                self.runtime.memsetAsync(pointer, 0, target.nbytes, self.stream_pointer)

    def _pointer(self, array: Array, what: str) -> int:
        if not isinstance(array, self.cupy.ndarray):
            raise TypeError(f"{what}: expected an array of this device, got {type(array).__name__}")
        if not array.flags.c_contiguous:
            raise TypeError(f"{what}: the array must be contiguous")
        return array.data.ptr

    def compile(self, file: str, defines: Mapping[str, int]) -> "CudaModule":
        return CudaModule(self, file, defines)

    def synchronize(self) -> None:
        with self._async_errors():
            self.stream.synchronize()

    def capture(self, record: Callable[[], None]) -> Callable[[], None]:
        """Record a CUDA graph. What libraries set up at a first call must be done: run `record` itself once before."""
        if self._capturing:
            raise InternalError("capture: a graph is being recorded already")
        with self.stream, self._async_errors():
            self.stream.begin_capture()
            self._capturing = True
            try:
                record()
            except BaseException:
                self._abandon_capture()
                raise
            finally:
                self._capturing = False
            graph = self.stream.end_capture()
            graph.upload(self.stream)

        def replay() -> None:
            with self._async_errors():
                graph.launch(self.stream)

        return replay

    def _abandon_capture(self) -> None:
        # The error may have made the capture invalid; the error itself says more.
        with contextlib.suppress(self.runtime.CUDARuntimeError):
            self.stream.end_capture()

    @contextlib.contextmanager
    def _async_errors(self) -> Iterator[None]:
        """Turn an error of the card, which may come from anything queued before, into an InternalError."""
        try:
            yield
        except self.runtime.CUDARuntimeError as error:
            raise InternalError(
                f"the card reports {error}, for something queued before; HostDevice(checked=True) names the kernel"
            ) from error


class _Staging:
    """Two buffers in pinned memory for the uploads to one target.

    `source` may change at once, and the host runs at most two uploads ahead of the card.
    """

    def __init__(self, cupy: Any, n_bytes: int) -> None:
        self._cupy, self._n_bytes = cupy, n_bytes
        self._buffers: list[tuple[Any, np.ndarray, Any]] = []  # pinned memory, its bytes, the event of its last copy
        self._turn = 0

    def copy(self, source: np.ndarray, pointer: int, stream: Any) -> None:
        """Queue a copy of `source` to `pointer`, after waiting for the copy before the last."""
        if self._turn == len(self._buffers):
            memory = self._cupy.cuda.alloc_pinned_memory(self._n_bytes)
            staged = np.frombuffer(memory, dtype=np.uint8, count=self._n_bytes)
            self._buffers.append((memory, staged, self._cupy.cuda.Event(disable_timing=True)))
            _, staged, event = self._buffers[-1]
        else:
            _, staged, event = self._buffers[self._turn]
            event.synchronize()
        staged[:] = source.reshape(-1).view(np.uint8)
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(pointer, staged.ctypes.data, self._n_bytes, runtime.memcpyHostToDevice, stream.ptr)
        event.record(stream)
        self._turn = 1 - self._turn


class CudaModule:
    """One .cu file, compiled by NVRTC and loaded."""

    def __init__(self, device: CudaDevice, file: str, defines: Mapping[str, int]) -> None:
        self._device, self._file = device, file
        cupy = device.cupy
        texts = read_sources(device.folder, file)
        kernels = parse_kernels(texts[file])
        # CuPy's cache knows a source by its text, not by the headers that it includes.
        headers = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()
        code = f'// with headers {headers}\n#line 1 "{device.folder / file}"\n{texts[file]}'
        self._kernels: dict[str, tuple[Signature, Any, int]] = {}
        try:
            module = cupy.RawModule(code=code, options=compile_options(device.folder, defines), backend="nvrtc")
            for name, kernel in kernels.items():
                function = module.get_function(name)
                signature = Signature(kernel, float_dtype=device.float_dtype, defines=defines)
                # To ask for it loads the function, which must not happen in a capture.
                self._kernels[name] = signature, function, function.max_threads_per_block
        except cupy.cuda.compiler.CompileException as error:
            raise compile_error(file, str(error)) from None

    def launch(self, kernel: str, grid: LaunchSize, block: LaunchSize, **arguments: Array | int | float | None) -> None:
        if kernel not in self._kernels:
            raise TypeError(f"{self._file} has no kernel {kernel}; it has {', '.join(self._kernels)}")
        signature, function, max_threads = self._kernels[kernel]
        ndarray = self._device.cupy.ndarray
        values = [_NULL if value is None else value for value in signature.bind(arguments)]
        for parameter, value in zip(signature.kernel.parameters, values, strict=True):
            if parameter.is_pointer and value is not _NULL and not isinstance(value, ndarray):
                raise TypeError(f"{kernel}: `{parameter.name}`: expected an array of this device")
        sides = launch_shape(kernel, grid, block, max_threads)
        try:
            function(*sides, tuple(values), stream=self._device.stream)
        except self._device.cupy.cuda.driver.CUDADriverError as error:
            raise InternalError(f"{kernel}: the launch failed: {error}") from error
