"""A data loader that serves each batch of pairs once an update, and that knows its position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sgool.types import PromptSeed

T = TypeVar("T")


def in_batches(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    """Cuts a sequence into batches of ``size`` consecutive items; the last may be shorter.

    Batches are cut from the whole list before it is shared among processes. So a pair is always in a batch with the
    same other pairs, and has the same rounding, in whatever process.
    """
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def share(batches: Sequence[T], slot: int, slots: int) -> list[T]:
    """Returns the share of one of several processes: every ``slots``-th batch, beginning with number ``slot``."""
    return list(batches[slot::slots])


class PairBatch:
    """Pairs that are worked on side by side, with the number of their current update.

    The same object is served at every update of its pairs. It is no sequence and no dataclass, since Lightning would
    take those apart.

    Args:
        pairs: The pairs.
        index: Number of the batch among the loader's batches, from 0.
        updates: How often the batch is served, unless it is ended early.
        update: Number of the current update, from 0; in a search, of the current candidate.
    """

    def __init__(self, pairs: Sequence[PromptSeed], index: int = 0, updates: int = 1, update: int = 0) -> None:
        self.pairs, self.index, self.updates, self.update = tuple(pairs), index, updates, update
        self._ended = False

    @property
    def is_over(self) -> bool:
        """Whether the current update is the last one of these pairs."""
        return self._ended or self.update + 1 >= self.updates

    @property
    def is_ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    def end(self) -> None:
        """Makes the current update the last one."""
        self._ended = True


class Batches(Protocol):
    """An iterable of batches of pairs; it may yield fewer than its length says."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence[PromptSeed]]: ...


class PairLoader(Iterable[PairBatch]):
    """Serves each batch of pairs once an update, so that an item of a training epoch is one update of one batch.

    Its state is its position, so that a fit can continue from a Lightning checkpoint in the middle of a batch.

    Args:
        batches: The batches, in order.
        updates: How often each batch is served.
    """

    def __init__(self, batches: Batches, updates: int) -> None:
        self._batches, self.updates = batches, updates
        # Where the next iteration begins, and the position while no batch is being served.
        self._start = self._position = (0, 0)
        self._current: PairBatch | None = None

    def __len__(self) -> int:
        """Returns the largest possible number of items."""
        return len(self._batches) * self.updates

    def __iter__(self) -> Iterator[PairBatch]:
        (first, update), self._start = self._start, (0, 0)
        index = first - 1
        for index, pairs in enumerate(self._batches):
            if index < first:
                continue
            batch = self._current = PairBatch(pairs, index, self.updates, update)
            update = 0
            yield batch
            while not batch.is_over:
                batch.update += 1
                yield batch
        self._current, self._position = None, (index + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position after the current item: the number of the batch and of the update."""
        batch = self._current
        if batch is None:
            position = self._position
        else:
            position = (batch.index + 1, 0) if batch.is_over else (batch.index, batch.update + 1)
        return {"batch": position[0], "update": position[1]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next iteration begin at the position of a `state_dict`."""
        self._start = self._position = (int(state["batch"]), int(state["update"]))
        self._current = None
