"""Tiny random detectors with their processors, in transformers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as tf

KINDS = ("mask2former", "detr", "owlv2", "grounding-dino")
LABELS = {0: "bench", 1: "dog", 2: "mouse"}
_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    ".",
    "?",
    "bench",
    "dog",
    "mouse",
    "a",
    "photo",
    "of",
    "computer",
]


def save_detector(folder: Path, kind: str, seed: int = 0) -> Path:
    """Saves a tiny random detector of the classes `LABELS`, or of any name, and returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, processor = _MADE[kind](folder)
        for name, parameter in network.named_parameters():
            # Weights of 0.02 give the same boxes everywhere.
            if "norm" not in name and parameter.ndim > 1:
                parameter.data.normal_(std=0.2)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _mask2former(folder: Path) -> tuple[Any, Any]:
    swin = tf.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = tf.Mask2FormerConfig(
        backbone_config=swin, hidden_dim=32, mask_feature_size=32, feature_size=32, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, encoder_feedforward_dim=32, dim_feedforward=32, num_queries=6, id2label=LABELS,
    )  # fmt: skip
    size = {"height": 64, "width": 64}
    return tf.Mask2FormerForUniversalSegmentation(config), tf.Mask2FormerImageProcessor(size=size)


def _detr(folder: Path) -> tuple[Any, Any]:
    config = tf.DetrConfig(
        use_timm_backbone=False, backbone=None, use_pretrained_backbone=False,
        backbone_config=tf.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], layer_type="basic",
            out_features=["stage4"],
        ),
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=6, id2label=LABELS,
    )  # fmt: skip
    size = {"shortest_edge": 64, "longest_edge": 96}
    return tf.DetrForObjectDetection(config), tf.DetrImageProcessor(size=size)


def _tokens(folder: Path) -> tf.BertTokenizerFast:
    (folder / "vocab.txt").write_text("\n".join(_WORDS))
    return tf.BertTokenizerFast(str(folder / "vocab.txt"))


def _owlv2(folder: Path) -> tuple[Any, Any]:
    from tests.tiny import _byte_pair_tokenizer

    words = _byte_pair_tokenizer(folder)
    words.model_max_length = 64
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = tf.Owlv2Config(
        text_config={**shared, "vocab_size": len(words), "max_position_embeddings": 64,
                     "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
                     "pad_token_id": words.pad_token_id},
        vision_config={**shared, "image_size": 48, "patch_size": 16},
        projection_dim=16,
    )  # fmt: skip
    images = tf.Owlv2ImageProcessor(size={"height": 48, "width": 48})
    return tf.Owlv2ForObjectDetection(config), tf.Owlv2Processor(images, words)


def _grounding_dino(folder: Path) -> tuple[Any, Any]:
    words = _tokens(folder)
    swin = tf.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = tf.GroundingDinoConfig(
        backbone_config=swin, use_timm_backbone=False,
        text_config=tf.BertConfig(
            vocab_size=len(_WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64,
        ),
        num_queries=6, encoder_layers=1, decoder_layers=2, d_model=32, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, max_text_len=16,
    )  # fmt: skip
    size = {"shortest_edge": 64, "longest_edge": 96}
    return tf.GroundingDinoForObjectDetection(config), tf.GroundingDinoProcessor(
        tf.GroundingDinoImageProcessor(size=size), words
    )


_MADE = {"mask2former": _mask2former, "detr": _detr, "owlv2": _owlv2, "grounding-dino": _grounding_dino}
