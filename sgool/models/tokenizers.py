"""A check of tokenizers: one without its vocabulary gives all prompts the same tokens, and says nothing."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

from sgool.errors import SgoolError


def refuse_empty(encode: Callable[[str], Any], where: str) -> None:
    """Refuses a tokenizer that cannot tell any letter from another.

    transformers makes such a tokenizer of a folder that has a ``tokenizer_config.json`` and no vocabulary.

    Args:
        encode: A text -> its token ids, as a list.
        where: What the tokenizer belongs to, for the message.

    Raises:
        SgoolError: All letters have the same tokens.
    """
    first = encode("a")
    if all(encode(letter) == first for letter in string.ascii_lowercase):
        raise SgoolError(
            f"{where}: expected a tokenizer with its vocabulary (tokenizer.json, or vocab.json and merges.txt), got "
            "one that gives all texts the same tokens; fetch these files again"
        )
