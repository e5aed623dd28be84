"""Finds weights that a file lacks and that a library would fill with random numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from sgool.errors import SgoolError

#: What diffusers and transformers (4 and 5) write where they fill weights.
_FILLED = "newly initialized"
_SHOWN = 3


class _Listener(logging.Handler):
    """Keeps what was filled, and passes all other records of a library on to its own handlers, from a level on.

    Args:
        handlers: The library's own.
        level: Level from which records go on to them.
    """

    def __init__(self, handlers: list[logging.Handler], level: int) -> None:
        super().__init__()
        self._handlers, self._level = handlers, level
        self.filled: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record."""
        text = record.getMessage()
        if _FILLED in text:
            self.filled.append(text)
        elif record.levelno >= self._level:
            for handler in self._handlers:
                handler.handle(record)


@contextmanager
def refuse_random_weights(source: str) -> Iterator[None]:
    """Refuses networks that are loaded inside this block with weights that no file has.

    diffusers and transformers fill such weights with random numbers and log a warning: the images are then wrong, and
    nothing stops. All else is logged as before.

    Args:
        source: Folder, hub id or file that is loaded, for the message.

    Raises:
        SgoolError: Weights were filled.
    """
    # Imported first: each library sets the handlers of its own logger when it is imported.
    import_module("diffusers.utils.logging")
    import_module("transformers.utils.logging")

    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    listeners = [_Listener(handlers, level) for level, handlers in before]
    for logger, listener in zip(loggers, listeners, strict=True):
        logger.handlers = [listener]
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, (level, handlers) in zip(loggers, before, strict=True):
            logger.handlers = handlers
            logger.setLevel(level)
    if filled := [text for listener in listeners for text in listener.filled]:
        raise SgoolError(_message(source, filled))


def refuse_missing(model: str, network: Any, missing: Sequence[str], mend: str) -> None:
    """Refuses a single network of transformers that was loaded without some of its weights.

    Args:
        model: Its folder or hub id, for the message.
        network: The network.
        missing: The ``missing_keys`` of transformers' loading info.
        mend: A sentence that says what to do.

    Raises:
        SgoolError: Weights are missing.
    """
    if missing:
        names = ", ".join(sorted(missing)[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise SgoolError(f"{model!r} lacks weights of a {type(network).__name__}: {names}. {mend}")


def _message(source: str, filled: list[str]) -> str:
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in filled]  # transformers 5 writes in bold and colours
    found = [re.search(r"(?:weights of )?(\w+)(?: LOAD REPORT| were not)", text) for text in plain]
    networks = ", ".join(match[1] for match in found if match)
    names = [name for text in plain for name in _names(text)]
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return (
        f"`models`: expected all weights of {networks} in {source!r}, got none for {shown}, which would be random "
        "numbers. A newer release of diffusers or transformers may have written them under other names: update these "
        "packages, or write the folder again"
    )


def _names(text: str) -> list[str]:
    """Names of the weights in a library's warning."""
    if match := re.search(rf"{_FILLED}: \[(.*?)\]", text):
        return sorted(re.findall(r"'([^']+)'", match.group(1)))
    return sorted(re.findall(r"^(\S+)\s+\|\s*MISSING", text, flags=re.MULTILINE))
