"""What the configuration may say of networks that several kinds of components use."""

from __future__ import annotations

from typing import Any

from sgool.config.options import required
from sgool.config.rules import MISSING, Schema, optional, text

#: A CLIP: arguments of `sgool.models.clip.load_clip`; `expand_clip` brings a plain name to this form.
CLIP: dict[str, Schema] = {"model": text(), "pretrained": optional(text())}


def expand_clip(value: Any) -> Any:
    """The full form of a CLIP that is given by its name alone; anything else as it is."""
    return {"model": value, "pretrained": None} if isinstance(value, str) and value != MISSING else value


def clip_option() -> Any:
    """A field for a CLIP, which has to be given."""
    return required(CLIP, expand=expand_clip)
