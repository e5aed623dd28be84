"""Terms and functions of the user's own, by their dotted path."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sgool.errors import SgoolError
from sgool.models.networks import Networks
from sgool.objectives.terms import Term


def custom_term(name: str, options: Mapping[str, Any], networks: Networks) -> Term:
    """A term of the user's own: ``_target_`` called with ``arguments``.

    Parameters called ``name`` and ``networks`` are filled in: the term's name, and where it may get its networks.

    Raises:
        SgoolError: Nothing at that path, arguments that do not fit, or something that is no term.
    """
    key = f"objective.terms.{name}"
    make = locate(options["_target_"], f"{key}._target_")
    arguments = dict(options["arguments"])
    try:
        parameters = inspect.signature(make).parameters
        for parameter, value in (("name", name), ("networks", networks)):
            if parameter in parameters:
                arguments.setdefault(parameter, value)
        inspect.signature(make).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise SgoolError(f"`{key}`: the arguments do not fit {options['_target_']}: {error}") from error
    term = make(**arguments)
    lacking = [part for part in ("name", "input_size", "targets", "__call__") if not hasattr(term, part)]
    if lacking:
        raise SgoolError(
            f"`{key}._target_`: expected a term, with name, input_size, targets and __call__; what "
            f"{options['_target_']} makes lacks {', '.join(lacking)} (see docs/objectives.md)"
        )
    return term


def locate(path: str, key: str) -> Callable[..., Any]:
    """What a dotted path names; modules in the current directory are found too.

    Raises:
        SgoolError: No such module or name in it, or nothing that can be called.
    """
    module_name, _, attribute = path.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise SgoolError(
            f"`{key}`: cannot import {path!r}: {error}. Expected MODULE.NAME, the module installed or in the current "
            f"directory ({here})."
        ) from error
    if not callable(found):
        raise SgoolError(f"`{key}`: expected a class or function at {path!r}, got {found!r}")
    return found
