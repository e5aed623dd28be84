"""What a run came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sgool.config.words import counted
from sgool.run.interrupt import INTERRUPTED
from sgool.types import PairRecord


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run_dir: The run folder.
        records: All records of this command's methods and pairs, also those that were there before.
        new: How many problems (a method on a pair) were left to do when it began, here and in its other processes.
        missing: How many have no record.
        interrupted: Name of the signal that asked to stop, or None.
        rank: Of this process; the first one speaks for all.
    """

    run_dir: Path
    records: tuple[PairRecord, ...]
    new: int
    missing: int = 0
    interrupted: str | None = None
    rank: int = 0

    @property
    def failed(self) -> tuple[PairRecord, ...]:
        """The records of pairs that did not end well."""
        return tuple(record for record in self.records if record.status != "done")

    @property
    def exit_code(self) -> int:
        """0 only if every pair ended well; 75 if the same command goes on with what is left."""
        if self.interrupted:
            return INTERRUPTED
        return 1 if self.failed or self.missing else 0

    def what_is_left(self) -> str:
        """A sentence on what has no result, each method on each pair by itself; empty where all have one."""
        if self.interrupted:
            by = "SIGINT (Ctrl+C)" if self.interrupted == "SIGINT" else self.interrupted
            left = f"the {counted(self.missing, 'result')} left" if self.missing else "what is left"
            return f"interrupted by {by}: the same command goes on with {left}"
        if self.missing == 1:
            return "1 result is missing: the same command makes it"
        return f"{self.missing} results are missing: the same command makes them" if self.missing else ""
