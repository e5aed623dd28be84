"""Suggestions for misspelled words and keys."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from sgool.config.aliases import OF_COLUMNS, SETTINGS


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Returns the question whether the closest option, in any case, was meant, or an empty text if none is close."""
    spelled: dict[str, str] = {}
    for option in options:
        spelled.setdefault(option.lower(), option)
    close = difflib.get_close_matches(word.lower(), list(spelled), n=1, cutoff=0.5)
    return f"; did you mean `{spelled[close[0]]}`?" if close else ""


def known_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns all dotted keys of nested mappings, including those of inner mappings."""
    keys = []
    for name, value in tree.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        keys.append(key)
        if isinstance(value, Mapping):
            keys.extend(known_keys(value, key))
    return keys


def unknown_key(key: str, keys: Iterable[str], hint: str = "") -> str:
    """Returns the message about a key that does not exist.

    Args:
        key: The dotted key.
        keys: All dotted keys that exist.
        hint: A sentence to add.
    """
    keys = list(keys)
    parent = key.rpartition(".")[0]
    while parent and not any(other.startswith(f"{parent}.") for other in keys):
        parent = parent.rpartition(".")[0]
    start = f"{parent}." if parent else ""
    siblings = [other for other in keys if other.startswith(start) and "." not in other[len(start) :]]
    where = f"Valid keys of `{parent}`" if parent else "Valid keys"
    names = ", ".join(sibling[len(start) :] for sibling in siblings)
    guess = _closest(key, keys)
    question = f"; did you mean {' or '.join(f'`{other}`' for other in guess)}?" if guess else "."
    return f"unknown key `{key}`{question} {hint}{where}: {names}."


def _closest(key: str, keys: list[str]) -> list[str]:
    """Returns the neighbour of nearly this name, else keys with the same last name, or one that it may stand for."""
    parent, _, last = key.rpartition(".")
    beside = {other.rpartition(".")[2]: other for other in keys if other.rpartition(".")[0] == parent}
    if near := difflib.get_close_matches(last, list(beside), n=1, cutoff=0.8):
        return [beside[near[0]]]
    same = [other for other in keys if other.rpartition(".")[2] == last]
    if not same and (meant := (SETTINGS | OF_COLUMNS).get(last.lower())):
        own = f"{parent}.{meant.rpartition('.')[2]}"  # such as method.NAME.optimization.lr
        same = [other for other in (own, meant) if other in keys][:1]
    return same[:3] or difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
