"""Stand-ins of the emoji scenes: shapes in place of the emoji, and a tiny text encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from experiments.emoji_scenes import words as scene_words
from experiments.emoji_scenes.captions import caption
from experiments.emoji_scenes.scenes import Painter, random_scene
from experiments.emoji_world import words


@pytest.fixture(scope="session")
def scenes_emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 64 px shapes, one per noun and distractor."""
    folder = tmp_path_factory.mktemp("emoji")
    files = [*words.NOUNS.values(), *(f for some in scene_words.DISTRACTORS.values() for f in some)]
    for index, name in enumerate(dict.fromkeys(files)):
        image = Image.new("RGBA", (64, 64))
        colour = (250 - 5 * index, 40 + 5 * index, 160, 255)
        ImageDraw.Draw(image).ellipse((6, 8, 57, 50 - index % 5), fill=colour)
        image.save(folder / name)
    return folder


@pytest.fixture(scope="session")
def scenes_painter(scenes_emoji: Path) -> Painter:
    """Paints with the shapes."""
    return Painter(scenes_emoji, grounds=3)


@pytest.fixture(scope="session")
def scenes_encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A tiny CLIPTextModelWithProjection and a tokenizer of a few words."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from experiments.emoji_world.tokenizers import new_clip_tokenizer

    torch.manual_seed(1)
    texts = [caption(random_scene(np.random.default_rng(i)), np.random.default_rng(i)).text for i in range(50)]
    tokenizer = new_clip_tokenizer(tmp_path_factory.mktemp("tokenizer"), texts)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=32, projection_dim=4, pad_token_id=0, **sizes, **ids
    )
    return CLIPTextModelWithProjection(config).eval().requires_grad_(False), tokenizer
