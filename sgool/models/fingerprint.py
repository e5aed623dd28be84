"""Fingerprints of networks: whether two networks have the same weights, whatever they are called."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

_VALUES_PER_TENSOR = 256
#: How many objects deep networks are looked for: a term, its scorer, a helper of that, a function in it.
_DEPTH = 3
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, torch.Tensor, ModuleType)
_CONTAINERS = (Mapping, list, tuple, set, frozenset)


def fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits of a network's parameters: shapes and up to 256 values of each, as float32.

    Values are spread evenly over each tensor: networks of billions of weights take milliseconds, and training changes
    all tensors at once. Names and order of the parameters play no part, so that one network in two wrappers, or loaded
    under two names, has one fingerprint.
    """
    digests = []
    for tensor in model.parameters():
        flat = tensor.detach().reshape(-1)
        step = max(1, -(-flat.numel() // _VALUES_PER_TENSOR))
        digest = hashlib.sha256(str(tuple(tensor.shape)).encode())
        digest.update(flat[::step].float().cpu().numpy().tobytes())
        digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]


def fingerprints(holder: Any) -> frozenset[str]:
    """The fingerprints of all networks that an object holds: a network, a term, a metric, a function.

    An object that has a method ``fingerprints`` is asked. Of others the attributes, the items of containers, and what
    a function has from around it are looked through. A network that a function finds in a module's globals is not
    seen, nor is one that is loaded when it is first needed.
    """
    return frozenset(_found(holder, _DEPTH, set()))


def _found(holder: Any, depth: int, seen: set[int]) -> Iterator[str]:
    if isinstance(holder, _PLAIN) or id(holder) in seen or depth < 0:
        return
    seen.add(id(holder))
    if callable(getattr(holder, "fingerprints", None)):
        yield from holder.fingerprints()
        return
    # Statistics alone, as a preprocessing has them, are no network.
    if isinstance(holder, nn.Module) and next(holder.parameters(), None) is not None:
        yield fingerprint(holder)
    # What a container holds is as near as the container.
    deeper = depth if isinstance(holder, _CONTAINERS) else depth - 1
    for part in _parts(holder):
        yield from _found(part, deeper, seen)


def _parts(holder: Any) -> Iterator[Any]:
    if isinstance(holder, nn.Module):
        # Parts of one network are no networks, but for those that say so, and for what is kept out of its state.
        yield from (part for part in holder.modules() if callable(getattr(part, "fingerprints", None)))
        yield from (value for value in vars(holder).values() if isinstance(value, (list, tuple)))
    elif isinstance(holder, Mapping):
        yield from holder.values()
    elif isinstance(holder, _CONTAINERS):
        yield from holder
    elif isinstance(holder, functools.partial):
        yield from (holder.func, holder.args, holder.keywords)
    elif isinstance(holder, FunctionType):
        yield from (cell.cell_contents for cell in holder.__closure__ or () if _is_filled(cell))
    elif isinstance(holder, MethodType):
        yield holder.__self__
    elif hasattr(holder, "__dict__"):
        yield from vars(holder).values()


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - asked for its error alone
    except ValueError:
        return False
    return True
