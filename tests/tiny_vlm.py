"""Tiny random Qwen2.5-VL and Qwen3-VL models with their processors, in transformers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

KINDS = ("qwen2_5_vl", "qwen3_vl")
#: Side of a patch; two by two of them are a token.
PATCH = 4
HIDDEN = 32
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes that has words for yes and no, with and without a space, as Qwen's has."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in ("Ġyes", "ĠYes", "yes", "Yes", "No", "two", "Two"):
        start = word[0]
        for letter in word[1:]:
            merges.append((start, letter))
            start += letter
            vocabulary.setdefault(start, len(vocabulary))
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges))))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    # Qwen's processors of transformers 4 take no other class.
    kind = Qwen2TokenizerFast if int(transformers.__version__.partition(".")[0]) < 5 else PreTrainedTokenizerFast
    return kind(
        tokenizer_object=made,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )


def text_settings(words: Any, rows: int) -> dict[str, Any]:
    """Returns the settings of a tiny language model with so many rows of embeddings."""
    end = words.convert_tokens_to_ids("<|endoftext|>")
    return {
        "vocab_size": rows,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_scaling": {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]},
        "bos_token_id": end,
        "eos_token_id": words.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": end,
    }


def save_vlm(folder: Path, kind: str, repetition_penalty: float | None = None, seed: int = 0) -> Path:
    """Saves a tiny random model with its processor, and returns its folder."""
    words = tokenizer()
    ids = {name: words.convert_tokens_to_ids(name) for name in SPECIAL}
    text = text_settings(words, len(words))
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 32,
    }
    shared: dict[str, Any] = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    pixels = {"patch_size": PATCH, "min_pixels": 16 * 16, "max_pixels": 64 * 64}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "qwen2_5_vl":
            own = {**vision, "window_size": 16, "fullatt_block_indexes": [1]}
            config = Qwen2_5_VLConfig(text_config=text, vision_config=own, **shared)
            network: Any = Qwen2_5_VLForConditionalGeneration(config)
            images = Qwen2VLImageProcessor(**pixels)
            processor: Any = Qwen2_5_VLProcessor(
                images, words, Qwen2VLVideoProcessor(patch_size=PATCH), chat_template=CHAT_TEMPLATE
            )
        else:
            own = {**vision, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
            config3 = Qwen3VLConfig(text_config={**text, "head_dim": 8}, vision_config=own, **shared)
            network = Qwen3VLForConditionalGeneration(config3)
            images = Qwen2VLImageProcessor(**pixels, image_mean=[0.5] * 3, image_std=[0.5] * 3)
            processor = Qwen3VLProcessor(
                images, words, Qwen3VLVideoProcessor(patch_size=PATCH), chat_template=CHAT_TEMPLATE
            )
        # Random weights of 0.02 give the same answer to everything.
        for name, parameter in network.named_parameters():
            if "norm" not in name:
                parameter.data.normal_(std=0.3)
    network.generation_config.repetition_penalty = repetition_penalty
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
