"""Measures how many bytes autograd keeps for one network call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Counted:
    """Bytes of the distinct storages that autograd saved, without those of the networks' weights."""

    total: int = 0


@contextmanager
def activation_bytes(networks: Iterable[nn.Module]) -> Iterator[Counted]:
    """Counts the bytes that autograd saves for backward inside the block; the networks' weights do not count."""
    counted = Counted()
    own = (tensor for network in networks for tensor in (*network.parameters(), *network.buffers()))
    # Storages by the addresses of their objects: tensors without data have no addresses of data.
    seen = {tensor.untyped_storage()._cdata for tensor in own}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            counted.total += storage.nbytes()
        # An output that an operation saves would hold its own graph: a cycle, which stays in memory.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield counted
