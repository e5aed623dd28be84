"""Converts values to the types that JSON and YAML have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def scalar_or_text(value: Any) -> Any:
    """Returns None, text, booleans and Python's numbers as they are; dates, decimals, paths and the like as text."""
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


def plain(value: Any, leaf: Callable[[Any], Any] = scalar_or_text) -> Any:
    """Converts a value to plain types: mappings become dictionaries with text keys, lists and tuples become lists.

    Args:
        value: Any value.
        leaf: Converts a value that is neither a mapping nor a list nor a tuple.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry, leaf) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry, leaf) for entry in value]
    return leaf(value)
