"""Fixtures that several test folders share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import callbacks

from sgool.models.clip import ClipTower, load_clip
from sgool.models.load import load_models
from sgool.models.stable_diffusion import StableDiffusion
from tests.reference import scheduler64
from tests.tiny import tiny_clip_folder, tiny_pipeline


@pytest.fixture(scope="session", autouse=True)
def experiments_train_with_lightning_2_6() -> Iterator[None]:
    """Skips what trains an experiment's network where Lightning has no averaging of weights; the package needs none."""
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(callbacks, "EMAWeightAveraging"):
            reason = "training an experiment's network needs lightning 2.6"
            patch.setattr("experiments.emoji_world.common._trainer", lambda *_, **__: pytest.skip(reason))
        yield


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


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion pipeline (4x8x8 latents, 32 pixels) as diffusers saves it."""
    return tiny_pipeline(tmp_path_factory.mktemp("pipelines") / "tiny")


@pytest.fixture(scope="session")
def models(pipeline_folder: Path) -> StableDiffusion:
    """The loaded `pipeline_folder`, float32; frozen, so tests may share it."""
    return load_models(pipeline_folder)


@pytest.fixture(scope="session")
def models64(pipeline_folder: Path) -> StableDiffusion:
    """The loaded `pipeline_folder`, float64, with a scheduler whose table is float64 too (diffusers keeps float32)."""
    loaded = load_models(pipeline_folder, dtype=torch.float64)
    return replace(loaded, scheduler=scheduler64())


@pytest.fixture(scope="session")
def clip64(clip_folder: Path) -> ClipTower:
    """The loaded `clip_folder`, float64."""
    return load_clip(str(clip_folder), dtype=torch.float64)
