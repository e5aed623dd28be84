"""Batches of pairs as a data loader: each batch is served once an update, and the loader knows where it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sgool.types import PromptSeed

T = TypeVar("T")


def in_batches(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    """Consecutive items, ``size`` at a time; the last may be shorter.

    Batches are cut from the whole list, before it is shared: so a pair has the same batch mates, and with them the same
    rounding, whoever works on it.
    """
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def share(batches: Sequence[T], slot: int, slots: int) -> list[T]:
    """Every ``slots``-th batch, from the ``slot``-th (from 0) on."""
    return list(batches[slot::slots])


class PairBatch:
    """Pairs that are worked on side by side, and how far they are.

    The same object is served at every update of its pairs. It is no sequence and no dataclass, so that Lightning hands
    it on as it is.

    Args:
        pairs: The pairs.
        index: Position among the loader's batches.
        updates: How often the batch is served, unless it ends before.
        update: The update under way, from 0; for a search the candidate.
    """

    def __init__(self, pairs: Sequence[PromptSeed], index: int = 0, updates: int = 1, update: int = 0) -> None:
        self.pairs, self.index, self.updates, self.update = tuple(pairs), index, updates, update
        self._ended = False

    @property
    def is_over(self) -> bool:
        """Whether the update under way is the last one of these pairs."""
        return self._ended or self.update + 1 >= self.updates

    def end(self) -> None:
        """Makes the update under way the last one."""
        self._ended = True


class Batches(Protocol):
    """Batches of pairs, at most ``len`` of them."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence[PromptSeed]]: ...


class PairLoader(Iterable[PairBatch]):
    """Serves each batch of pairs once an update: an item of a training epoch is one update of one batch.

    Its state is its position, so that a Lightning checkpoint continues in the middle of a batch.

    Args:
        batches: The batches, in order. They may be fewer than their length says.
        updates: How often each is served.
    """

    def __init__(self, batches: Batches, updates: int) -> None:
        self._batches, self.updates = batches, updates
        #: Where the next iteration begins, and where one without a batch under way stands.
        self._start = self._position = (0, 0)
        self._current: PairBatch | None = None

    def __len__(self) -> int:
        """The most items there can be."""
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
        """The position after the item under way."""
        batch = self._current
        if batch is None:
            position = self._position
        else:
            position = (batch.index + 1, 0) if batch.is_over else (batch.index, batch.update + 1)
        return {"batch": position[0], "update": position[1]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on there."""
        self._start = self._position = (int(state["batch"]), int(state["update"]))
        self._current = None
