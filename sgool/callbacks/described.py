"""What terms and detectors say of themselves: enough to tell whether two runs had the same ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sgool.models.fingerprint import fingerprints
from sgool.results.checkpoint import origin

#: How many levels of objects are looked into: a term, its questions or scorer, a helper of that.
_DEPTH = 3
_PLAIN = (bool, int, float, str, type(None), torch.dtype, Tensor)


def digest(part: Any) -> str:
    """Hashes a term or detector: the same for the same settings, in any process and on any device.

    What counts is its class, the weights of its networks (`sgool.models.fingerprint.fingerprints`), and the arguments
    it was made with: its attributes that have the name of one of its constructor's parameters, with or without an
    underscore before it. Other attributes do not, since they may change: a count of calls, a cache. Networks count
    wherever they are held, so load them in the constructor: one that the first call loads changes the hash.
    """
    return str(origin("", (), [_described(part, _DEPTH), sorted(fingerprints(part))])["settings"])[:16]


def _described(value: Any, depth: int) -> Any:
    """Describes a value in numbers, texts, tensors and containers of them."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _described(entry, depth) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(entry, depth) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(_described(entry, depth)) for entry in value)  # in another order in each process
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, functools.partial):
        return [_described(part, depth) for part in (value.func, value.args, value.keywords)]
    kind = value if hasattr(value, "__qualname__") else type(value)  # functions and classes have names of their own
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind is value or not depth:
        return name
    if depth < _DEPTH and _is_network(value):
        return [name, sorted(fingerprints(value))]
    return [name, {key: _described(entry, depth - 1) for key, entry in _arguments(value).items()}]


def _is_network(value: Any) -> bool:
    return isinstance(value, nn.Module) and next(value.parameters(), None) is not None


def _arguments(part: Any) -> dict[str, Any]:
    """The attributes of an object that are named as its constructor's parameters, those of its base classes too."""
    held = getattr(part, "__dict__", {})
    own = [kind.__dict__["__init__"] for kind in type(part).__mro__ if "__init__" in kind.__dict__]
    names = {name for made in own if inspect.isfunction(made) for name in inspect.signature(made).parameters}
    names -= {"device"}  # it decides on nothing
    return {name: held[key] for name in names for key in (f"_{name}", name) if key in held}
