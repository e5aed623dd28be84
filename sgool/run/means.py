"""A method's means over all pairs of a run. The process that finds all pairs recorded logs them, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from sgool.results import RunFolder
from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.types import PairRecord, PromptSeed


def _scores(record: PairRecord) -> dict[str, float]:
    """Returns a pair's metrics without those that say how much of its prompt was cut off: few pairs have these."""
    return {name: value for name, value in record.metrics.items() if not name.endswith("truncated")}


class Means:
    """The means of a run's metrics, and a note of which were logged.

    ``RUN/logs/METHOD.means.json`` holds the means that were logged last.

    Args:
        folder: The run folder.
        pairs: All pairs of the run, in all its parts and ranks.
    """

    def __init__(self, folder: RunFolder, pairs: Sequence[PromptSeed]) -> None:
        self._folder, self._pairs = folder, pairs
        self._digest = ""

    def to_log(self, method: str) -> dict[str, float] | None:
        """Returns the means over the pairs that ended well, if they have to be logged.

        None: some pairs have no record yet, or these means were logged before.
        """
        records = [self._folder.record(method, pair.pair_id) for pair in self._pairs]
        if not all(records):
            return None
        rows = [_scores(record) for record in records if record is not None and record.status == "done"]
        self._digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
        if self._logged_digest(method) == self._digest:
            return None
        from sgool.metrics.panel import aggregate  # imports torch, which a finished run does without

        return aggregate(rows)

    def mark_logged(self, method: str, means: dict[str, float]) -> None:
        """Notes that the means that `to_log` returned last were logged.

        Raises:
            SgoolError: The note cannot be written.
        """
        path = self._path(method)
        text = json.dumps({"means": means, "of": self._digest}, indent=2) + "\n"
        with explain_os_errors(f"write {path}", "Make room there and run the same command again."):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text.encode())

    def _logged_digest(self, method: str) -> str | None:
        """Reads the digest of the scores whose means were logged; None if none were."""
        try:
            return str(json.loads(self._path(method).read_text(encoding="utf-8"))["of"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _path(self, method: str) -> Path:
        return self._folder.path / "logs" / f"{method}.means.json"
