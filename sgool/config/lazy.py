"""Exports of a package that are imported on first use (PEP 562), so that its other modules stay light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a package's ``__getattr__``, which imports an exported name on first use.

    Args:
        package: The package's ``__name__``.
        modules: Exported name -> the module below the package that defines it. No name may be that of a module below
            the package: Python sets that attribute itself, to the module.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return get
