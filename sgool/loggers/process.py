"""Which of a run's processes this is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One of the processes that share a run's pairs.

    Attributes:
        rank: Of this process among those of its job, from 0.
        world_size: Processes of its job.
        part: This job's part of the pairs (``trainer.shard``, a SLURM array task), from 1.
        parts: How many such parts there are.
    """

    rank: int = 0
    world_size: int = 1
    part: int = 1
    parts: int = 1

    @property
    def label(self) -> str:
        """Names the process among its run's, the same in every start: empty if it is the only one."""
        names = [f"part{self.part}of{self.parts}"] if self.parts > 1 else []
        names += [f"rank{self.rank}of{self.world_size}"] if self.world_size > 1 else []
        return "-".join(names)

    def named(self, method: str) -> str:
        """METHOD, or METHOD-LABEL."""
        return f"{method}-{self.label}" if self.label else method
