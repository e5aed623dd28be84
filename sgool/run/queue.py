"""The batches of a method that are left to do: a sampler that claims each batch before it serves it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from sgool.prompts.batches import in_batches
from sgool.results import RunFolder
from sgool.results.claims import Claims
from sgool.results.under_way import BatchesUnderWay
from sgool.types import PairRecord, PromptSeed

Batch = tuple[PromptSeed, ...]


class PairQueue:
    """Serves one method's batches, without those that are recorded or that another runner works on.

    `sgool.PromptDataModule` takes it as its sampler. A batch that is served is claimed until its records are written
    (`done`) or the Trainer has ended (`release`).

    Args:
        folder: The run folder.
        method: The method.
        batches: Those of this process, in order.
        resume: Whether pairs that have a record are skipped, and checkpoints of batches under way taken up.
        stop_requested: Called before each batch; true ends the queue.

    Attributes:
        method: As given.
        current: The batch that is claimed, or None.
        began: When it was served, by ``time.perf_counter``.
        taken: Batches that another runner works on.
        under_way: Checkpoints of the method's batches.
    """

    def __init__(
        self,
        folder: RunFolder,
        method: str,
        batches: Sequence[Batch],
        *,
        resume: bool = True,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder, self.method, self._resume, self._stop_requested = folder, method, resume, stop_requested
        self._made: set[str] = set()
        self._claim = ExitStack()
        self.under_way = BatchesUnderWay(folder.path, method)
        self.current: Batch | None = None
        self.began = time.perf_counter()
        self.taken: list[Batch] = []
        left = [batch for batch in batches if self.left(batch)]
        # Pairs that failed before come last, so that they keep nobody waiting.
        self._waiting = deque(sorted(left, key=self._failed_before))

    def __len__(self) -> int:
        """The most batches that are served before it is empty."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Batch]:
        while self._waiting and not self._stop_requested():
            batch = self._waiting.popleft()
            if pairs := self._claimed(batch):
                self.current, self.began = pairs, time.perf_counter()
                yield pairs

    @property
    def waiting(self) -> tuple[Batch, ...]:
        """The batches that have not been served yet."""
        return tuple(self._waiting)

    @property
    def number_left(self) -> int:
        """How many pairs have not been served yet."""
        return sum(map(len, self._waiting))

    def left(self, batch: Sequence[PromptSeed]) -> Batch:
        """Returns the pairs of a batch that are still to be done."""
        return tuple(pair for pair in batch if self.wants(pair))

    def wants(self, pair: PromptSeed) -> bool:
        """Whether a pair is still to be done."""
        if pair.pair_id in self._made:
            return False
        return not (self._resume and self._folder.is_done(self.method, pair.pair_id, retry_failed=True))

    def made(self, record: PairRecord) -> None:
        """Notes that a pair is recorded, so that it is not done again."""
        self._made.add(record.pair_id)

    def done(self) -> None:
        """Ends the batch that was served last: its records are written, and its checkpoint goes."""
        if self.current is not None:
            self.under_way.end(self.current)
        self.release()

    def release(self) -> None:
        """Gives the claim back; a batch that is not done keeps its checkpoint."""
        self._claim.close()
        self.current = None

    def give_up(self) -> Batch:
        """Forgets the checkpoint of the batch that was served last, gives its claim back, and returns it."""
        batch = self.current or ()
        if self.current is not None:
            self.under_way.end(self.current)
        self.release()
        return batch

    def cut(self, size: int) -> None:
        """Cuts waiting batches into smaller ones."""
        self._waiting = deque(part for batch in self._waiting for part in in_batches(batch, size))

    def put_back(self, batches: Sequence[Batch]) -> None:
        """Puts batches in front of those that wait."""
        self._waiting.extendleft(reversed(batches))

    def _claimed(self, batch: Batch) -> Batch | None:
        """The pairs to work on, once they are claimed; None where nothing is left of the batch, or it is taken."""
        while left := self.left(batch):
            pairs = self.under_way.batch_to_continue(batch, left)
            free = self._claim.enter_context(Claims(self._folder.path).take(self.method, [p.pair_id for p in pairs]))
            if not free:
                self.release()
                self.taken.append(batch)
                return None
            # Somebody may have ended some of them since we looked.
            if self.left(batch) == left:
                if not self._resume:
                    self.under_way.end(pairs)
                self.under_way.begin(pairs)
                return pairs
            self.release()
        return None

    def _failed_before(self, batch: Batch) -> bool:
        return any(self._folder.is_done(self.method, pair.pair_id) for pair in self.left(batch))
