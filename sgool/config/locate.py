"""Finds classes and functions by their dotted paths: checks without executing code, and imports them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from sgool.errors import SgoolError


def add_search_folder(folder: Path) -> None:
    """Adds a folder to the end of the import path, for the whole process and as long as it runs."""
    place = str(folder)
    if place not in sys.path:
        sys.path.append(place)


def module_problems(path: str, key: str) -> Iterator[str]:
    """Yields a problem if the module of a dotted path cannot be found; no module or package is executed.

    Args:
        path: ``MODULE.NAME``; modules in the current directory are found too.
        key: Dotted key of the configuration, for the message.
    """
    add_search_folder(Path.cwd())
    module = path.rpartition(".")[0]
    if not _exists(module):
        yield _cannot_import(path, key, f"No module named {module!r}")


def locate(path: str, key: str) -> Callable[..., Any]:
    """Imports and returns the class or function at a dotted path; modules in the current directory are found too.

    Raises:
        SgoolError: There is no such module, it has no such name, or the name cannot be called.
    """
    module, _, attribute = path.rpartition(".")
    add_search_folder(Path.cwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SgoolError(_cannot_import(path, key, str(error))) from error
    if not callable(found):
        raise SgoolError(f"`{key}`: expected a class or function at {path!r}, got {found!r}")
    return found


def _exists(module: str) -> bool:
    """Whether a module can be found; the packages around it are searched by path and not imported."""
    if module in sys.modules:
        return True
    importlib.invalidate_caches()
    head, *rest = module.split(".")
    spec = importlib.util.find_spec(head)
    name = head
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return False
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec is not None


def _cannot_import(path: str, key: str, reason: str) -> str:
    return (
        f"`{key}`: cannot import {path!r}: {reason}. Expected MODULE.NAME, the module installed, in the current "
        f"directory ({Path.cwd()}) or in --config-dir."
    )
