"""Counts the bytes of tensors that are alive, and their largest sum, also of tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Within the block, follows every tensor that an operation makes until its memory is free again.

    Operations are counted, not allocations: what a kernel needs within itself is not seen. It works on fake tensors
    too, and on a CPU in backward; on a GPU, where backward runs in another thread, torch counts itself.

    Args:
        known: Tensors that do not count, such as weights.

    Attributes:
        now: Bytes that are alive.
        peak: The largest number of bytes that were alive at once.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs the operation and adds what it has made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in self._alive:
            return
        self._alive[key] = weakref.ref(storage, partial(self._freed, key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int, reference: Any) -> None:
        if self._alive.get(key) is reference:
            del self._alive[key]
            self.now -= size
