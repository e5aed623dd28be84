"""A tiny pipeline as a user has it in memory, and one over the embedded world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sgool import SGOOLPipeline
from tests.tiny_families import tiny_family


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As `trainer.threads=1` of the runs that results are compared with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(pipe: SGOOLPipeline) -> SGOOLPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def loaded() -> Any:
    """A tiny Stable Diffusion of 16 pixels, loaded."""
    return tiny_family("sd")


@pytest.fixture(scope="module")
def tiny(loaded: Any, clip_folder: Path) -> SGOOLPipeline:
    return quiet(SGOOLPipeline(loaded, guide=clip_folder, judges={}))


@pytest.fixture(scope="module")
def world() -> SGOOLPipeline:
    """The few-step student of the embedded world."""
    return quiet(SGOOLPipeline.from_pretrained("emoji_world_turbo", device="cpu"))
