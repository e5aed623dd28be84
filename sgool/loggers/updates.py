"""The curves of the batch under way: what `sgool.methods.LatentPairModule` logs at each update, once."""

from __future__ import annotations

from collections.abc import Mapping

#: Lightning's own, and those that say where a row belongs.
_NO_VALUES = ("epoch", "update", "batch")


class UpdateFilter:
    """Lets each value of each update pass once.

    A fit that continues from its checkpoint makes the updates after it a second time, to the bit; and several
    callbacks may log one update.

    Args:
        last: The last update that was logged in an earlier start, by batch.
    """

    def __init__(self, last: Mapping[str, int]) -> None:
        self._before = dict(last)
        self._ended: list[str] = []
        self._batch, self._update, self._names = "", -1, set[str]()

    def begin(self, batch: str) -> None:
        """The next updates are this batch's."""
        for ended in self._ended:
            self._before.pop(ended, None)
        self._ended = []
        self._batch, self._update, self._names = batch, -1, set()

    def end(self, batch: str) -> None:
        """The batch has ended: if its pairs are done again, they are logged again.

        Only from the next `begin` on: Lightning logs a batch's last update after its results are handed over.
        """
        self._ended.append(batch)

    def fresh(self, values: Mapping[str, float]) -> tuple[int, dict[str, float]]:
        """The update that values are of, and those of them that were not logged yet.

        Values that are of no update, such as means over the data set, are left out: they are logged at a method's end.
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
