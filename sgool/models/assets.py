"""Where the embedded models lie."""

from __future__ import annotations

from pathlib import Path

#: Folder of all embedded models and prompt sets.
ASSETS = Path(__file__).resolve().parent.parent / "assets"


def resolve_asset(path: str) -> str:
    """Maps "emoji_world" and what lies below it to the packaged folder; leaves every other path as it is.

    A folder of the user's own with that name, relative to the current directory, wins.
    """
    head = Path(path).parts[0] if path else ""
    own = Path(path).expanduser()
    if head == "emoji_world" and not own.exists() and (ASSETS / path).exists():
        return str(ASSETS / path)
    return str(own) if own.exists() else path
