"""Keeps libraries from logging what is said here in a sentence of our own, or is meant as it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

#: torch's logger that tells torchao's authors of a deprecation, in two lines, when diffusers imports torchao.
_FOR_OTHERS = "torch.utils._pytree"


@contextmanager
def without_notes() -> Iterator[None]:
    """Lets diffusers log errors alone, inside this block, and what it imports nothing that is for others to mend."""
    from diffusers.utils import logging as diffusers_logging

    level, theirs = diffusers_logging.get_verbosity(), logging.getLogger(_FOR_OTHERS)
    before = theirs.level
    diffusers_logging.set_verbosity_error()
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        theirs.setLevel(before)
