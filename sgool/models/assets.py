"""From the names of embedded models to their folders."""

from __future__ import annotations

from pathlib import Path

from sgool.paths import ASSETS


def resolve_asset(path: str) -> str:
    """Maps "emoji_world" and what lies below it to the packaged folder; leaves every other path as it is.

    A folder of the user's own with that name, relative to the current directory, wins.
    """
    head = Path(path).parts[0] if path else ""
    own = Path(path).expanduser()
    if head == "emoji_world" and not own.exists() and (ASSETS / path).exists():
        return str(ASSETS / path)
    return str(own) if path and own.exists() else path
