"""Words of messages."""

from __future__ import annotations


def counted(number: int, word: str, words: str | None = None) -> str:
    """Returns a number with its word: ``1 pair``, ``2 pairs``.

    Args:
        number: How many there are.
        word: The word for one.
        words: The word for none or several; None: ``word`` with an s.
    """
    return f"{number} {word}" if number == 1 else f"{number} {words or word + 's'}"
