"""A process's place among the processes that share a run."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One of the processes that share a run's pairs.

    Attributes:
        rank: The process's number among those of its job, from 0.
        world_size: How many processes the job has.
        part: The job's part of the run (``trainer.shard``, a SLURM array task), from 1.
        parts: How many parts the run has.
    """

    rank: int = 0
    world_size: int = 1
    part: int = 1
    parts: int = 1

    @property
    def label(self) -> str:
        """A name of the process within its run, the same in every start; empty if there is only one process."""
        names = [f"part{self.part}of{self.parts}"] if self.parts > 1 else []
        names += [f"rank{self.rank}of{self.world_size}"] if self.world_size > 1 else []
        return "-".join(names)

    @staticmethod
    def names(method: str) -> re.Pattern[str]:
        """Returns the pattern of all names that a method's logs may have, with the numbers of `sgool.loggers.slots`."""
        return re.compile(rf"{re.escape(method)}(-part\d+of\d+)?(-rank\d+of\d+)?(-\d+)?")

    def named(self, method: str) -> str:
        """Returns the name of this process's logs for a method: METHOD, or METHOD-LABEL."""
        return f"{method}-{self.label}" if self.label else method
