"""The interface by which a run reports its progress."""

from __future__ import annotations

from collections.abc import Sequence

from sgool.types import PairRecord, PromptSeed


class Progress:
    """Receives what a runner reports, and shows nothing; subclasses show it."""

    def as_rank(self, rank: int, size: int) -> None:
        """Says, before ``start``, which of several processes this is.

        Args:
            rank: The number of this process, from 0.
            size: How many processes there are.
        """

    def start(self, pairs: int, methods: Sequence[str], left: int) -> None:
        """Says that the run begins.

        Args:
            pairs: How many pairs this process has.
            methods: The names of the methods.
            left: How many problems (a method on a pair) are left to do.
        """

    def note(self, text: str) -> None:
        """Passes on a sentence that the user should know."""

    def batch(self, method: str, pairs: Sequence[PromptSeed]) -> None:
        """Says that a batch of pairs begins."""

    def update(self, update: int, total: int, loss: float | None = None, score: float | None = None) -> None:
        """Says that an update, candidate or denoising step of the batch is done.

        Args:
            update: How many are done.
            total: How many the batch takes.
            loss: The loss, as a mean over the batch's pairs.
            score: The selection score, as a mean over the batch's pairs.
        """

    def done(self, records: Sequence[PairRecord]) -> None:
        """Says that pairs have ended and that their records are written."""
