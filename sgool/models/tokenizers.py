"""What tokenizers cut off, and a check for one without its vocabulary: it gives all prompts the same tokens."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
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


def cut_texts(tokenizer: Any, limit: int, prompts: Sequence[str]) -> list[str]:
    """Returns for each prompt the text beyond so many tokens, the end token included; empty where nothing is."""
    cut = []
    for prompt in prompts:
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        cut.append(tokenizer.decode(ids[limit - 1 : -1]).strip() if len(ids) > limit else "")
    return cut
