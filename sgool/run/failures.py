"""Ends a run whose pairs all fail: that is no trouble of single pairs."""

from __future__ import annotations

import time

from sgool.errors import SgoolError
from sgool.results import RunFolder
from sgool.types import PairRecord

#: Pairs of a method that may fail before any ends well.
MOST_FAILURES = 12


class Failures:
    """Counts the pairs of each method that failed, until one ends well.

    Pairs of other processes of the run count as well. Failures of earlier starts do not, since the same command tries
    them again; but a method of which any pair has ever ended well is never stopped.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._began = time.time()
        self._own: dict[str, dict[str, PairRecord]] = {}
        self._well: set[str] = set()

    def add(self, record: PairRecord) -> None:
        """Notes a record that this process has written."""
        if record.status == "done":
            self._well.add(record.method)
        else:
            self._own.setdefault(record.method, {})[record.pair_id] = record

    def _is_new(self, record: PairRecord) -> bool:
        """Whether a record was written since this process began."""
        try:
            path = self._folder.pair_folder(record.method, record.pair_id) / "record.json"
            return path.stat().st_mtime >= self._began
        except FileNotFoundError:  # a retry has just removed it
            return False

    def check(self, method: str) -> None:
        """Ends the run where the first pairs of a method have all failed; called between two batches.

        Raises:
            SgoolError: `MOST_FAILURES` or more have failed, and none has ended well.
        """
        own = self._own.get(method)
        if method in self._well or not own:
            return
        others = [record for record in self._folder.records() if record.method == method]
        if any(record.status == "done" for record in others):
            self._well.add(method)
            return
        failed = {record.pair_id for record in others if self._is_new(record)} | own.keys()
        if len(failed) >= MOST_FAILURES:
            raise SgoolError(
                f"the first {len(failed)} pairs of {method} have all failed, so the run stops. The last one: "
                f"{list(own.values())[-1].error}. What was finished is kept, and the same command tries failed pairs "
                "again"
            )
