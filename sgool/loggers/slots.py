"""Names of logs that one process at a time may use: two runners on one run folder must not write the same log."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from sgool.results.locks import lock


class Slot:
    """Holds the first of the names NAME, NAME-2, NAME-3, ... that no living process holds.

    A process that has ended and is started again gets the name that it had before.

    Args:
        folder: The folder of the lock files; made if it is missing.
        name: The name that is wanted.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            self.name = name if number == 1 else f"{name}-{number}"
            # The file stays: its lock ends with the process, and the next process locks the same file.
            self._descriptor = os.open(folder / f".{self.name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
            if lock(self._descriptor) is not False:  # None, where there are no locks, counts as free
                return
            os.close(self._descriptor)

    def release(self) -> None:
        """Gives the name back, so that other processes can take it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
