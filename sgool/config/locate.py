"""Classes and functions by their dotted paths: looked for without executing them, and imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from sgool.errors import SgoolError


def search_also(folder: Path) -> None:
    """Lets modules in a folder be found, after all others.

    Importing has one list of places for the whole process, so this lasts as long as the process.
    """
    place = str(folder)
    if place not in sys.path:
        sys.path.append(place)


def module_problems(path: str, key: str) -> Iterator[str]:
    """A sentence if the module of a dotted path cannot be found. Neither it nor a package around it is executed.

    Args:
        path: ``MODULE.NAME``; modules in the current directory are found too.
        key: Of the configuration.
    """
    search_also(Path.cwd())
    module = path.rpartition(".")[0]
    if not _is_there(module):
        yield _cannot_import(path, key, f"No module named {module!r}")


def locate(path: str, key: str) -> Callable[..., Any]:
    """What a dotted path names; modules in the current directory are found too.

    Raises:
        SgoolError: No such module or name in it, or nothing that can be called.
    """
    module, _, attribute = path.rpartition(".")
    search_also(Path.cwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SgoolError(_cannot_import(path, key, str(error))) from error
    if not callable(found):
        raise SgoolError(f"`{key}`: expected a class or function at {path!r}, got {found!r}")
    return found


def _is_there(module: str) -> bool:
    """Whether a module can be found; the packages around it are searched by their paths alone."""
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
