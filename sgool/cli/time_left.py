"""Estimates how long a run still takes, from the first update on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sgool.run.progress import Work


class TimeLeft:
    """Learns from finished pairs and from the updates of the batch under way.

    A method that has ended pairs is timed by them, and the batch under way by its updates so far. A method that has not
    begun is expected to take, for its ``cost``, as long as the others took for theirs.

    Args:
        work: What is left of each method.
        clock: Seconds, from any start.
    """

    def __init__(self, work: Sequence[Work] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cost = {part.method: part.cost for part in work}
        self._left = {part.method: part.pairs for part in work}
        self._spent: dict[str, tuple[float, int]] = {}  # seconds and pairs
        self._method = ""
        self._began = self._at = 0.0  # when the batch began, and when its newest update was done
        self._pairs = self._open = 0  # pairs of the batch under way, and those of them that have not ended
        self._first = self._update = self._total = 0

    def batch(self, method: str, pairs: int) -> None:
        """Notes that a batch begins."""
        self._method, self._began = method, self._clock()
        self._pairs = self._open = pairs
        self._first, self._update, self._total = -1, 0, 0

    def update(self, update: int, total: int) -> None:
        """Notes how many of the batch's updates are done; a batch that is resumed does not begin at the first."""
        if self._first < 0:
            self._first = update - 1
        self._update, self._total, self._at = update, total, self._clock()

    def done(self, method: str) -> None:
        """Notes that a pair has ended."""
        self._left[method] = max(self._left.get(method, 0) - 1, 0)
        if method != self._method or not self._open:
            return
        self._open -= 1
        if self._first <= 0:  # else an earlier start made a part of it
            # Pairs of one batch end together; each has its share of the batch's time.
            seconds, pairs = self._spent.get(method, (0.0, 0))
            self._spent[method] = (seconds + (self._clock() - self._began) / self._pairs, pairs + 1)

    def seconds(self) -> float | None:
        """Returns the time left in seconds; None as long as nothing is known."""
        paces = {method: seconds / pairs for method, (seconds, pairs) in self._spent.items()}
        made = self._update - self._first
        rest = 0.0
        if self._open and self._total and made > 0:
            update = (self._at - self._began) / made
            # It counts down during an update, by no more than an update takes.
            rest = update * (self._total - self._update) - min(self._clock() - self._at, update)
            rest = max(rest, 0.0)
            paces.setdefault(self._method, update * self._total / self._pairs)
        if not paces:
            return None
        begun = self._open if self._update else 0
        unit = sum(paces.values()) / sum(self._cost.get(method, 1.0) for method in paces)
        for method, left in self._left.items():
            waiting = max(left - begun, 0) if method == self._method else left
            rest += waiting * paces.get(method, self._cost.get(method, 1.0) * unit)
        return rest
