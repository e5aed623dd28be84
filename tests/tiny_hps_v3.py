"""A tiny random HPSv3: its base model's folder and its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from tests.tiny_vlm import CHAT_TEMPLATE, HIDDEN, PATCH, SPECIAL, text_settings, tokenizer

#: The stand-in for the authors' file.
INSTRUCTION = Path(__file__).with_name("hps_v3_instruction.py")


def save_hps_v3(folder: Path, patch: int = PATCH, seed: int = 0, older: bool = True) -> dict[str, str]:
    """Saves the checkpoint and the base model's folder, and returns the options of `hps_v3_options`.

    Args:
        folder: Where to; it is made.
        patch: Side of a patch in pixels.
        seed: Seed of the weights.
        older: Whether the names in the checkpoint are those of transformers before 4.52, as in the published file.
    """
    words = tokenizer()
    ids = {name: words.convert_tokens_to_ids(name) for name in SPECIAL}
    # The base model has more rows than words, as Qwen2-VL has; the checkpoint has one for each word.
    text = text_settings(words, len(words) + 9)
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": HIDDEN,
        "mlp_ratio": 2,
        "num_heads": 2,
        "patch_size": patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    images = Qwen2VLImageProcessor(patch_size=patch, min_pixels=16, max_pixels=1000 * 1000)
    processor: Any = Qwen2VLProcessor(
        images, words, Qwen2VLVideoProcessor(patch_size=patch), chat_template=CHAT_TEMPLATE
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = Qwen2VLForConditionalGeneration(config)
        network.resize_token_embeddings(len(words) + 1)
        head = nn.Sequential(
            nn.Linear(HIDDEN, 24), nn.ReLU(), nn.Dropout(0.05), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 2)
        )
        # Random weights of 0.02 give the same score to everything.
        for name, parameter in (*network.named_parameters(), *head.named_parameters()):
            if "norm" not in name:
                parameter.data.normal_(std=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    state = {**network.state_dict(), **{f"rm_head.{name}": value for name, value in head.state_dict().items()}}
    if older:
        state = {name.replace("model.visual.", "visual."): value for name, value in state.items()}
        state = {name.replace("model.language_model.", "model."): value for name, value in state.items()}
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / "HPSv3.safetensors")
    base = folder / "base"
    config.text_config.vocab_size = text["vocab_size"]
    config.save_pretrained(base)
    processor.save_pretrained(base)
    return hps_v3_options(folder)


def hps_v3_options(folder: Path) -> dict[str, str]:
    """The options ``checkpoint``, ``model`` and ``instruction`` of what `save_hps_v3` saved in a folder."""
    return {
        "checkpoint": str(folder / "HPSv3.safetensors"),
        "model": str(folder / "base"),
        "instruction": str(INSTRUCTION),
    }
