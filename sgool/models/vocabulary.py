"""Finds words of prompts that a model has never seen, where the model's folder says which words it has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from sgool.config.paths import ASSETS, asset_path

#: File in a model's folder with all words of the captions that it was trained on, one a line, in lower case. Models
#: that were trained on the web have none: there is hardly a word that they have never seen.
WORDS = "words.txt"
_WORD = re.compile(r"[^\W_]+")
_MOST_SHOWN = 12


def is_embedded(path: str) -> bool:
    """Whether this is one of the models that ship with sgool."""
    return Path(asset_path(path)).parent == ASSETS


def known_words(path: str) -> frozenset[str] | None:
    """Returns the words that a model has seen.

    Args:
        path: The model's folder, or "emoji_world".

    Returns:
        The words in lower case; None where the model does not say.
    """
    file = Path(asset_path(path)) / WORDS if path else None
    if file is None or not file.is_file():
        return None
    return frozenset(file.read_text(encoding="utf-8").split())


def unknown_words(path: str, prompts: Iterable[str]) -> tuple[list[str], int]:
    """Returns the words of prompts that a model has never seen, in their order, and how many prompts have some.

    Args:
        path: The model's folder, or "emoji_world".
        prompts: Texts; a word is a sequence of letters and digits, in any case.
    """
    known = known_words(path)
    if known is None:
        return [], 0
    found = [[word for word in _WORD.findall(prompt.lower()) if word not in known] for prompt in prompts]
    return list(dict.fromkeys(word for words in found for word in words)), sum(map(bool, found))


def note_on_words(path: str, prompts: Iterable[str]) -> str:
    """Returns a sentence that names the words that a model has never seen, and says what to do; empty: there are none.

    Args:
        path: The model's folder, or "emoji_world".
        prompts: The prompts of the run; equal ones count once.
    """
    unique = list(dict.fromkeys(prompts))
    words, number = unknown_words(path, unique)
    if not words:
        return ""
    more = f" and {len(words) - _MOST_SHOWN} more" if len(words) > _MOST_SHOWN else ""
    knows = f"It knows {_what_it_knows()}" if is_embedded(path) else f"{WORDS} in its folder has those that it knows"
    return (
        f"words that {path} has never seen: {', '.join(words[:_MOST_SHOWN])}{more} (in {number} of {len(unique)} "
        f"prompts). It cannot draw them, and scores of such prompts mean nothing. {knows}. For other prompts "
        "take a real model: models=sd14 (models.path=FOLDER for a copy on disk)"
    )


def _what_it_knows() -> str:
    """The embedded models' things and colours."""
    facts = json.loads((ASSETS / "emoji_world" / "reader" / "config.json").read_text(encoding="utf-8"))
    tints = [tint for tint in facts["tints"] if tint != "natural"]
    return (
        f"{', '.join(facts['nouns'])}; {', '.join(tints)}; one to four of a thing, or two things side by side or one "
        f"above the other; a {', '.join(facts['backgrounds'][:-1])} or {facts['backgrounds'][-1]} background"
    )
