"""A method's means over all pairs of a run: logged once, by whoever finds that the last pair is recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from sgool.results import RunFolder
from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.types import PairRecord, PromptSeed


def _scores(record: PairRecord) -> dict[str, float]:
    """A pair's metrics, without how much of its prompt was cut off: only prompts that were have that."""
    return {name: value for name, value in record.metrics.items() if not name.endswith("truncated")}


class Means:
    """Means of a run's metrics.

    ``RUN/logs/METHOD.means.json`` holds those that were given to the loggers.

    Args:
        folder: The run folder.
        pairs: All pairs of the run, of all its parts and ranks.
    """

    def __init__(self, folder: RunFolder, pairs: Sequence[PromptSeed]) -> None:
        self._folder, self._pairs = folder, pairs
        self._of = ""

    def to_log(self, method: str) -> dict[str, float] | None:
        """Means over the pairs that ended well; None while some have no record, or if they were logged before."""
        records = [self._folder.record(method, pair.pair_id) for pair in self._pairs]
        if not all(records):
            return None
        rows = [_scores(record) for record in records if record is not None and record.status == "done"]
        self._of = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
        if self._logged_of(method) == self._of:
            return None
        from sgool.metrics.panel import aggregate  # imports torch, which a finished run does without

        return aggregate(rows)

    def logged(self, method: str, means: dict[str, float]) -> None:
        """Those that `to_log` has just given were logged."""
        path = self._path(method)
        text = json.dumps({"means": means, "of": self._of}, indent=2) + "\n"
        with explain_os_errors(f"write {path}", "Make room there and run the same command again."):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text.encode())

    def _logged_of(self, method: str) -> str | None:
        """A hash of the scores whose means were logged."""
        try:
            return str(json.loads(self._path(method).read_text(encoding="utf-8"))["of"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _path(self, method: str) -> Path:
        return self._folder.path / "logs" / f"{method}.means.json"
