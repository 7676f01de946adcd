"""A host device with graphs: what is queued while one is recorded runs at each replay, with the values it had then.

It stands in for a card where the question is what a step bakes into its graph.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from gpt2lab.engine.cuda_host import HostDevice
from gpt2lab.engine.host_gemm import HostGemm
from gpt2lab.engine.numerics import Numerics
from gpt2lab.schema import Precision


class RecordingDevice(HostDevice):
    """The engine takes it for a card."""

    name = "cuda"

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[Callable[[], None]] | None = None
        self.n_replays = 0

    def queue(self, call: Callable[[], None]) -> None:
        """Run the call, or keep it for the graph that is being recorded."""
        if self.recorded is None:
            call()
        else:
            self.recorded.append(call)

    def upload(self, target: np.ndarray, source: np.ndarray) -> None:
        assert self.recorded is None, "a graph would upload the same values every time"
        super().upload(target, source)

    def download(self, source: np.ndarray) -> np.ndarray:
        assert self.recorded is None, "nothing can be read while a graph is recorded"
        return super().download(source)

    def empty(self, n_bytes: int) -> np.ndarray:
        assert self.recorded is None, "nothing can be allocated while a graph is recorded"
        return super().empty(n_bytes)

    def fill_zero(self, target: np.ndarray) -> None:
        self.queue(partial(super().fill_zero, target))

    def compile(self, file: str, defines: Mapping[str, int]) -> Any:
        assert self.recorded is None, "nothing can be compiled while a graph is recorded"
        return RecordingModule(self, super().compile(file, defines))

    def capture(self, record: Callable[[], None]) -> Callable[[], None]:
        self.recorded = []
        record()
        calls, self.recorded = self.recorded, None

        def replay() -> None:
            self.n_replays += 1
            for call in calls:
                call()

        return replay


class RecordingModule:
    """A module whose launches are queued."""

    def __init__(self, device: RecordingDevice, module: Any) -> None:
        self._device, self._module = device, module

    def launch(self, kernel: str, grid: Any, block: Any, **arguments: Any) -> None:
        self._device.queue(partial(self._module.launch, kernel, grid, block, **arguments))


class RecordingGemm(HostGemm):
    """Products that are queued."""

    def matmul(self, *arrays: np.ndarray, **options: Any) -> None:
        self._device.queue(partial(super().matmul, *arrays, **options))


def recording_gemm(device: RecordingDevice, precision: Precision) -> RecordingGemm:
    return RecordingGemm(device, Numerics.of(device, precision))
