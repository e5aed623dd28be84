"""A filter for what `sgool.methods.LatentPairModule` logs: each value of each update goes to the logs once."""

from __future__ import annotations

from collections.abc import Mapping

#: Names that are no values of their own: Lightning adds the first, the others say where a row belongs.
_NO_VALUES = ("epoch", "update", "batch")


class UpdateFilter:
    """Passes each value of each update once.

    A fit that continues from its checkpoint makes the updates after the checkpoint a second time, with equal values.
    And several callbacks may log values of the same update.

    Args:
        last: For each batch under way, the last update that an earlier start logged.
    """

    def __init__(self, last: Mapping[str, int]) -> None:
        self._before = dict(last)
        self._ended: list[str] = []
        self._batch, self._update, self._names = "", -1, set[str]()

    def begin(self, batch: str) -> None:
        """Begins a batch: the values that come next are of its updates."""
        for ended in self._ended:
            self._before.pop(ended, None)
        self._ended = []
        self._batch, self._update, self._names = batch, -1, set()

    def end(self, batch: str) -> None:
        """Ends a batch: if its pairs are done again later, their updates are logged again.

        This counts from the next `begin` on, since Lightning logs a batch's last update after its results.
        """
        self._ended.append(batch)

    def new_values(self, values: Mapping[str, float]) -> tuple[int, dict[str, float]]:
        """Returns the number of an update, and those of its values that were not logged yet.

        Values of no update, such as means over the data set, are left out: they are logged at a method's end.
        """
        if "update" not in values:
            return -1, {}
        update = int(values["update"])
        if update <= self._before.get(self._batch, -1) or update < self._update:
            return update, {}
        if update > self._update:
            self._update, self._names = update, set()
        known = {*self._names, *_NO_VALUES}
        new = {name: float(value) for name, value in values.items() if name not in known}
        self._names |= new.keys()
        return update, new
