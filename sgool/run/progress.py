"""The interface by which a run reports its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgool.types import PairRecord, PromptSeed


@dataclass(frozen=True)
class Work:
    """What is left of one method.

    Attributes:
        method: Its name.
        pairs: How many pairs are left.
        cost: What a pair is expected to cost, in any unit that all methods share; it is replaced by what is measured.
    """

    method: str
    pairs: int
    cost: float = 1.0


class Progress:
    """Receives what a runner reports, and shows nothing; subclasses show it."""

    def as_rank(self, rank: int, size: int) -> None:
        """Says, before ``start``, which of several processes this is.

        Args:
            rank: The number of this process, from 0.
            size: How many processes there are.
        """

    def model(self, text: str) -> None:
        """Says, before ``start``, which model runs.

        Args:
            text: Its name, and what it is good for where that is known.
        """

    def start(self, pairs: int, methods: Sequence[str], left: int, work: Sequence[Work] = ()) -> None:
        """Says that the run begins.

        Args:
            pairs: How many pairs this process has.
            methods: The names of the methods.
            left: How many problems (a method on a pair) are left to do.
            work: The same by method, in the order of the work, for an estimate of the time.
        """

    def note(self, text: str) -> None:
        """Passes on a sentence that the user should know."""

    def batch(self, method: str, pairs: Sequence[PromptSeed]) -> None:
        """Says that a batch of pairs begins."""

    def update(self, update: int, total: int, loss: float | None = None, objective: float | None = None) -> None:
        """Says that an update, candidate or denoising step of the batch is done.

        Args:
            update: How many are done.
            total: How many the batch takes.
            loss: The loss, with random crops, as a mean over the batch's pairs; lower is better.
            objective: The selection score, the same without random crops, as a mean over the batch's pairs.
        """

    def done(self, records: Sequence[PairRecord]) -> None:
        """Says that pairs have ended and that their records are written."""

    def stopping(self, signal: str) -> None:
        """Says that a signal has asked the run to stop; it is called while the signal is handled.

        Args:
            signal: Its name, such as SIGINT (Ctrl+C).
        """
