"""Timing on a device: calls queued together, rounds, medians with quartiles, and the time that is left."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from gpt2lab.engine.cuda.device import Device

CACHE_BYTES = 1 << 28  # several times the L2 cache of any card (60 MB on an H200)


class Budget:
    """How much of the whole check's time is left."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._started = seconds, time.perf_counter()

    @property
    def spent(self) -> float:
        return time.perf_counter() - self._started

    @property
    def left(self) -> float:
        return self.seconds - self.spent


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles."""
    q1, median, q3 = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": median, "q1": q1, "q3": q3}


def time_calls(
    device: Device, call: Callable[[int], None], *, rounds: int = 7, seconds_per_round: float = 0.02
) -> dict[str, float]:
    """Return the seconds of `call(i)`, which queues work on the device: median and quartiles over `rounds`.

    A round's calls, i = 0, 1, 2 ..., are recorded as one graph, so that the gaps between launches do not count.
    """
    stopwatch = Stopwatch(device)
    for _ in range(2):  # the first loads kernels and chooses algorithms, which must not happen in a graph
        once = stopwatch.seconds(lambda: call(0))
    n = max(1, min(20, round(seconds_per_round / once)))

    def queue() -> None:
        for i in range(n):
            call(i)

    replay = device.capture(queue)
    replay()
    return spread([stopwatch.seconds(replay) / n for _ in range(rounds)])


class Stopwatch:
    """Seconds that queued work takes: by events of the card, or by the clock on a processor."""

    def __init__(self, device: Device) -> None:
        self._device: Any = device
        if device.name == "cuda":
            event = self._device.cupy.cuda.Event
            self._start, self._end = event(), event()

    def seconds(self, queue: Callable[[], None]) -> float:
        device: Any = self._device
        device.synchronize()
        if device.name != "cuda":
            started = time.perf_counter()
            queue()
            return time.perf_counter() - started
        self._start.record(device.stream)
        queue()
        self._end.record(device.stream)
        self._end.synchronize()
        return device.cupy.cuda.get_elapsed_time(self._start, self._end) / 1000
