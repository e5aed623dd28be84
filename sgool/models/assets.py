"""Finds the folders of embedded models by their names."""

from __future__ import annotations

from sgool.config.paths import ASSETS, asset_path


def resolve_asset(path: str) -> str:
    """Maps an embedded model ("emoji_world", ...) and what lies below it to its folder; leaves other paths as they are.

    A folder of the user's own with that name, relative to the current directory, wins.
    """
    return asset_path(path, ASSETS)
