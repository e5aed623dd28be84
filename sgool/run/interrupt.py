"""Signals that ask a run to stop: it finishes the update, writes a checkpoint and ends."""

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
#: Seconds within which a signal that comes again is the same request: a terminal, srun and we all pass it on.
_SAME_REQUEST = 1.0


class Interrupt:
    """Remembers that a signal asked to stop.

    ``with Interrupt() as asked: ... if asked(): ...``. A second Ctrl+C ends the process at once. Handlers are those of
    before when the block ends. Outside of the main thread, where Python allows no handlers, nothing is ever asked.
    """

    def __init__(self) -> None:
        #: Name of the signal, or None.
        self.signal: str | None = None
        #: Told each signal, so that it reaches processes started by this one.
        self.forward: Callable[[int], Any] | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop."""
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


def _numbers(names: Sequence[str]) -> list[int]:
    """Windows knows no SIGUSR1."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]
