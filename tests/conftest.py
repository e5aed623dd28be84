"""Fixtures that several test folders share."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgool.models.clip import ClipTower, load_clip
from tests.tiny import tiny_clip_folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP (ResNet, byte-pair encoding, 32 pixels, 16 tokens) in open_clip's layout."""
    return tiny_clip_folder(tmp_path_factory.mktemp("clips") / "tiny-clip", "clip")


@pytest.fixture(scope="session")
def wordpiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP (ViT, WordPiece, 24 pixels, 16 tokens) in open_clip's layout."""
    return tiny_clip_folder(tmp_path_factory.mktemp("clips") / "tiny-wordpiece", "wordpiece", seed=1)


@pytest.fixture(scope="session")
def clip_tower(clip_folder: Path) -> ClipTower:
    """The loaded `clip_folder`, float32; frozen, so tests may share it."""
    return load_clip(str(clip_folder))


@pytest.fixture(scope="session")
def wordpiece_tower(wordpiece_folder: Path) -> ClipTower:
    """The loaded `wordpiece_folder`, float32."""
    return load_clip(str(wordpiece_folder))
