"""Signals that ask a run to stop: the run then finishes the update, writes a checkpoint and ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

#: Exit code of a run that was asked to stop and can be continued by the same command (EX_TEMPFAIL of sysexits.h).
INTERRUPTED = 75
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
#: Seconds within which the same signal counts as one request: a terminal, srun and the parent process all send it.
_SAME_REQUEST = 1.0


class Interrupt:
    """Remembers whether a signal has asked the run to stop.

    ``with Interrupt() as interrupt: ... if interrupt(): ...``. A second Ctrl+C ends the process at once. At the end of
    the block the earlier signal handlers are put back. Outside of the main thread, where Python allows no handlers,
    signals are not noticed.
    """

    def __init__(self) -> None:
        #: Name of the signal that asked to stop; None: there was none.
        self.signal: str | None = None
        #: Called with each signal's number, to pass it on to processes that this one started.
        self.forward: Callable[[int], Any] | None = None
        #: Called with the name of the first signal, while it is handled: it may not wait for anything.
        self.on_request: Callable[[str], Any] | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether a signal has asked to stop."""
        return self.signal is not None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in _numbers(SIGNALS):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.forward is not None:
            self.forward(number)
        again = self.signal is not None and time.monotonic() - self._since > _SAME_REQUEST
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is None:
            self.signal, self._since = signal.Signals(number).name, time.monotonic()
            if self.on_request is not None:
                self.on_request(self.signal)


def _numbers(names: Sequence[str]) -> list[int]:
    """Returns the numbers of the signals that the system has: Windows has no SIGUSR1."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]
