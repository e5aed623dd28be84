"""Fingerprints of networks, which tell whether two networks have the same weights, whatever their names."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

_VALUES_PER_TENSOR = 256
#: How many levels of objects are searched for networks: a term, its scorer, a helper of that, a function in it.
_DEPTH = 3
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, torch.Tensor, ModuleType)
_CONTAINERS = (Mapping, list, tuple, set, frozenset)


def fingerprint(model: nn.Module) -> str:
    """Hashes a network's parameters to 16 hexadecimal digits: their shapes and up to 256 values of each, as float32.

    The values are spread evenly over each tensor. So networks of billions of weights take milliseconds, and since
    training changes all tensors at once, this is enough to tell networks apart. Names and order of the parameters do
    not matter: a network has the same fingerprint in any wrapper and under any name.
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
    """Returns the fingerprints of all networks that an object holds: a network, a term, a metric, a function.

    If the object has a method ``fingerprints``, that is called. Otherwise its attributes, the items of containers and
    the variables that a function has captured are searched. A network in a module's global variables is not found, nor
    is one that is loaded only when it is first needed.
    """
    return frozenset(_found(holder, _DEPTH, set()))


def _found(holder: Any, depth: int, seen: set[int]) -> Iterator[str]:
    if isinstance(holder, _PLAIN) or id(holder) in seen or depth < 0:
        return
    seen.add(id(holder))
    if callable(getattr(holder, "fingerprints", None)):
        yield from holder.fingerprints()
        return
    # A module without parameters, such as a preprocessing with its statistics, is no network.
    if isinstance(holder, nn.Module) and next(holder.parameters(), None) is not None:
        yield fingerprint(holder)
    # A container is no level of its own.
    deeper = depth if isinstance(holder, _CONTAINERS) else depth - 1
    for part in _parts(holder):
        yield from _found(part, deeper, seen)


def _parts(holder: Any) -> Iterator[Any]:
    if isinstance(holder, nn.Module):
        # Parts of a network count only if they have `fingerprints`, or lie in a list or tuple, out of its state.
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
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True
