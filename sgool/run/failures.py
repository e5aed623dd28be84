"""Ends a run whose pairs all fail: that is no trouble of single pairs."""

from __future__ import annotations

import time

from sgool.errors import SgoolError
from sgool.results import RunFolder
from sgool.types import PairRecord

#: Pairs of a method that may fail before any ends well.
MOST_FAILURES = 12
#: Prompts of a method that may end in an exception, before any ends well, until that is no pair's own trouble.
MOST_CRASHES = 3


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
        self._crashed: dict[str, set[str]] = {}
        self._fits = False

    def add(self, record: PairRecord) -> None:
        """Notes a record that this process has written."""
        if record.status == "done":
            self._well.add(record.method)
        else:
            self._own.setdefault(record.method, {})[record.pair_id] = record

    def fit_ended(self) -> None:
        """Notes that a fit has ended without an exception: what raises now, whatever the method, is some pair's own."""
        self._fits = True

    def crashed(self, method: str, prompt: str, error: str) -> None:
        """Notes that a pair alone ended in an exception; ends the run where all that was tried has.

        Raises:
            SgoolError: `MOST_CRASHES` prompts have, no fit has ended without, and no pair of the method has ever ended
                well.
        """
        crashed = self._crashed.setdefault(method, set())
        crashed.add(prompt)
        if len(crashed) < MOST_CRASHES or self._fits or self._has_ended_well(method):
            return
        raise SgoolError(
            f"{MOST_CRASHES} prompts in a row ended in an error, the last one in {error}, and none well. That is no "
            "trouble of single pairs: see the traceback with --debug. What was finished is kept, and failed pairs are "
            "tried again"
        )

    def _has_ended_well(self, method: str) -> bool:
        """Whether any pair of a method has, in whatever start and process."""
        if method not in self._well:
            records = self._folder.records()
            self._well |= {record.method for record in records if record.status == "done"}
        return method in self._well

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
        if not own or self._has_ended_well(method):
            return
        others = [record for record in self._folder.records() if record.method == method]
        failed = {record.pair_id for record in others if self._is_new(record)} | own.keys()
        if len(failed) >= MOST_FAILURES:
            raise SgoolError(
                f"the first {len(failed)} pairs of {method} have all failed, so the run stops. The last one: "
                f"{list(own.values())[-1].error}. What was finished is kept, and the same command tries failed pairs "
                "again"
            )
