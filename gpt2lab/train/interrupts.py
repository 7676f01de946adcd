"""Ctrl-C and SIGTERM: at once while a run is prepared, after the current update while it trains."""

import os
import signal
import threading
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While open, SIGINT and SIGTERM raise KeyboardInterrupt.

    With `deferred` set, the first one is only noted in `reason`, and a second SIGINT raises. Outside the main thread
    Python delivers no signals, and nothing is changed.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.deferred = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.deferred or (self.reason is not None and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.reason = f"stopped by {signal.Signals(number).name}"
        line = "finishing this step, then saving; Ctrl-C again quits without saving"
        os.write(2, f"\n{line}\n".encode())  # print may be at work when the signal comes
