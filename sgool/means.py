"""A method's means over all pairs of a run: logged once, by whoever finds that the last pair is recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sgool.atomic import atomic_write, explain_os_errors
from sgool.results import RunFolder
from sgool.types import PromptSeed


class Means:
    """Means of a run's metrics.

    ``RUN/logs/METHOD.means.json`` holds those that were given to the loggers.

    Args:
        folder: The run folder.
        pairs: All pairs of the run, of all its parts and ranks.
    """

    def __init__(self, folder: RunFolder, pairs: Sequence[PromptSeed]) -> None:
        self._folder, self._pairs = folder, pairs

    def to_log(self, method: str) -> dict[str, float] | None:
        """Means over the pairs that ended well; None while some have no record, or if they were logged before."""
        records = [self._folder.record(method, pair.pair_id) for pair in self._pairs]
        if not all(records):
            return None
        from sgool.metrics.panel import aggregate

        means = aggregate([record.metrics for record in records if record is not None and record.status == "done"])
        path = self._folder.path / "logs" / f"{method}.means.json"
        return None if path.is_file() and path.read_text(encoding="utf-8") == _text(means) else means

    def logged(self, method: str, means: dict[str, float]) -> None:
        """They were."""
        path = self._folder.path / "logs" / f"{method}.means.json"
        with explain_os_errors(f"write {path}", "Make room there and run the same command again."):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, _text(means).encode())


def _text(means: dict[str, float]) -> str:
    return json.dumps(means, indent=2) + "\n"
