"""What a run tells while it works."""

from __future__ import annotations

from collections.abc import Sequence

from sgool.types import PairRecord, PromptSeed


class Progress:
    """Is told what the runner does, and shows nothing; subclasses show it."""

    def as_rank(self, rank: int, size: int) -> None:
        """Before ``start``: several processes work; this is one of them."""

    def start(self, pairs: int, methods: Sequence[str], left: int) -> None:
        """The run begins: this process's pairs, methods, and (method, pair) problems left to do."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def batch(self, method: str, pairs: Sequence[PromptSeed]) -> None:
        """A batch of pairs begins."""

    def update(self, update: int, total: int, loss: float | None = None, score: float | None = None) -> None:
        """An update of the batch is done; means over the batch of its loss and of the score that chooses the best."""

    def done(self, records: Sequence[PairRecord]) -> None:
        """The batch has ended and its records are written."""
