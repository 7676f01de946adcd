"""As much of CuPy as the cuda device calls, on numpy memory, for tests where there is no card."""

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class CardError(RuntimeError):
    """CUDARuntimeError of the stand-in."""


class CompileException(Exception):  # noqa: N818
    pass


class Memory:
    """cupy.ndarray as far as it is used, on numpy memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.data = values, SimpleNamespace(ptr=values.ctypes.data)
        self.shape, self.dtype, self.nbytes, self.flags = values.shape, values.dtype, values.nbytes, values.flags
        self.strides = values.strides


class Stream:
    ptr = 77

    def __init__(self, card: "Card") -> None:
        self.card = card

    def __enter__(self) -> None:
        self.card.calls.append("enter stream")

    def __exit__(self, *error: object) -> None:
        self.card.calls.append("exit stream")

    def synchronize(self) -> None:
        self.card.run(len(self.card.queue))

    def begin_capture(self) -> None:
        self.card.calls.append("begin capture")

    def end_capture(self) -> Any:
        self.card.calls.append("end capture")
        if self.card.capture_fails:
            raise CardError("cudaErrorStreamCaptureInvalidated")
        calls = self.card.calls
        return SimpleNamespace(
            upload=lambda stream: calls.append(f"upload {stream.ptr}"),
            launch=lambda stream: calls.append(f"launch {stream.ptr}"),
        )


class Event:
    def __init__(self, card: "Card") -> None:
        self.card, self.at = card, 0

    def record(self, stream: Stream) -> None:
        self.at = len(self.card.queue)

    def synchronize(self) -> None:
        self.card.waits += 1
        self.card.run(self.at)


class Card:
    """A card that copies only when someone waits for it, as late as a real one may."""

    def __init__(self, code_error: str = "") -> None:
        self.queue: list[Callable[[], None]] = []
        self.done = self.waits = 0
        self.calls: list[Any] = []
        self.capture_fails = False
        self.code_error = code_error
        self.cupy = SimpleNamespace(
            __version__="14.2.0",
            ndarray=Memory,
            empty=lambda n, dtype: Memory(_aligned(n)),
            get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 7),
            RawModule=self.raw_module,
            cuda=SimpleNamespace(
                Stream=lambda non_blocking: Stream(self),
                Event=lambda disable_timing: Event(self),
                alloc_pinned_memory=lambda n: (ctypes.c_char * n)(),
                memory=SimpleNamespace(OutOfMemoryError=MemoryError),
                driver=SimpleNamespace(CUDADriverError=CardError),
                compiler=SimpleNamespace(CompileException=CompileException),
                runtime=SimpleNamespace(
                    CUDARuntimeError=CardError,
                    memcpyHostToDevice=1,
                    memcpyDeviceToHost=2,
                    driverGetVersion=lambda: 13000,
                    runtimeGetVersion=lambda: 13020,
                    getDeviceCount=lambda: 1,
                    getDevice=lambda: 0,
                    getDeviceProperties=lambda number: {
                        "name": b"NVIDIA Test",
                        "major": 9,
                        "minor": 0,
                        "multiProcessorCount": 132,
                        "totalGlobalMem": 1 << 37,
                    },
                    memGetInfo=lambda: (100, 200),
                    memcpyAsync=self.copy,
                    memsetAsync=self.fill,
                ),
            ),
        )

    def run(self, until: int) -> None:
        for action in self.queue[self.done : until]:
            action()
        self.done = max(self.done, until)

    def copy(self, to: int, source: int, n_bytes: int, kind: int, stream: int) -> None:
        assert stream == 77 and kind in (1, 2)
        self.queue.append(lambda: ctypes.memmove(to, source, n_bytes))

    def fill(self, to: int, value: int, n_bytes: int, stream: int) -> None:
        assert stream == 77
        self.queue.append(lambda: ctypes.memset(to, value, n_bytes))

    def raw_module(self, *, code: str, options: tuple[str, ...], backend: str) -> Any:
        assert backend == "nvrtc"
        self.code, self.options = code, options
        if self.code_error:
            raise CompileException(self.code_error)

        def kernel(*arguments: object, stream: Stream) -> None:
            assert stream.ptr == 77
            self.calls.append(arguments)

        kernel.max_threads_per_block = 128  # type: ignore[attr-defined]
        return SimpleNamespace(get_function=lambda name: kernel)


def _aligned(n_bytes: int) -> np.ndarray:
    padded = np.empty(n_bytes + 256, np.uint8)
    return padded[-padded.ctypes.data % 256 :][:n_bytes]
