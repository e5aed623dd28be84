"""Single files that hold the weights of a whole pipeline, or of one of its networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sgool.config.paths import asset_path

SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".gguf")


def is_single_file(path: str) -> bool:
    """Whether a path names a file of weights, by its suffix; hub ids have none of these."""
    return path.lower().endswith(SUFFIXES)


def described_by(models: Any) -> str:
    """Returns the folder or hub id whose small files describe a model: `models.config` of a single file, else its path.

    Args:
        models: The configuration's ``models``.
    """
    path = str(models["path"])
    return str(models.get("config") or path) if is_single_file(path) else path


def is_folder(path: str) -> bool:
    """Whether a path, possibly an embedded model's name, is a folder."""
    return bool(path) and Path(asset_path(path)).expanduser().is_dir()
