"""What libraries fetch from the hub: at once from their cache where the hub is out of reach, and in silence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sgool.config.network import out_of_reach

#: Seconds until a hub that does not answer counts as out of reach.
_PATIENCE = 10.0


@contextmanager
def hub_access() -> Iterator[str | None]:
    """Lets the libraries load from the hub; where it is out of reach, from their cache alone.

    Without it they try again and again for a minute, print a line for each try, and log warnings of their own.

    Yields:
        The reason why the hub is out of reach, or None.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    why = "HF_HUB_OFFLINE is set" if offline else out_of_reach(constants.ENDPOINT, _PATIENCE)
    if why is None:
        yield None
        return
    handlers, level = list(logging.root.handlers), logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # the caller says in one sentence what these records would say
    constants.HF_HUB_OFFLINE = True  # its environment variable is read only at import
    try:
        yield why
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.disable(level)
        # open_clip logs by functions that give the root logger a handler.
        logging.root.handlers[:] = [handler for handler in logging.root.handlers if handler in handlers]


def not_cached(what: str, why: str, mend: str) -> str:
    """Returns the sentence about weights that are neither here nor within reach.

    Args:
        what: What was to be loaded, the subject of the sentence.
        why: The reason why the hub is out of reach.
        mend: What else the user may do.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    return (
        f"{what} is not complete in the cache {HF_HUB_CACHE}, and the hub is out of reach ({why}). Fetch it once where "
        f"there is a network, or {mend}."
    )
