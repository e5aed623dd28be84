"""Options of networks that several kinds of components use."""

from __future__ import annotations

from typing import Any

from sgool.config.options import required
from sgool.config.rules import MISSING, Schema, optional, text

#: Rules of a CLIP's options, the arguments of `sgool.models.clip.load_clip`; `expand_clip` makes them of a plain name.
CLIP: dict[str, Schema] = {"model": text(), "pretrained": optional(text())}


def expand_clip(value: Any) -> Any:
    """Expands a CLIP that is given by its name alone to its options; returns any other value as it is."""
    return {"model": value, "pretrained": None} if isinstance(value, str) and value != MISSING else value


def clip_option() -> Any:
    """Makes a field of options for a CLIP, which the user must give."""
    return required(CLIP, expand=expand_clip)
