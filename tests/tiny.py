"""Builders of tiny real models for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

CONTEXT_LENGTH = 16
_CORPUS = (
    "a red cat to the left of a blue house",
    "a photo of two green trees on a yellow background",
    "three purple butterflies above a large orange car",
    "an elephant and a panda beside a heart",
)
_CONFIGS: dict[str, dict[str, Any]] = {
    # A convolutional tower with batch normalisation and OpenAI's mean, as the embedded guide.
    "clip": {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
            "text_cfg": {"context_length": CONTEXT_LENGTH, "width": 16, "heads": 2, "layers": 2},
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    },
    # A transformer with another mean and text pooled at the first token, as the embedded judge.
    "wordpiece": {
        "model_cfg": {
            "embed_dim": 12,
            "vision_cfg": {"image_size": 24, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
            "text_cfg": {
                "context_length": CONTEXT_LENGTH,
                "width": 16,
                "heads": 2,
                "layers": 1,
                "no_causal_mask": True,
                "pool_type": "first",
            },
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    },
}


def tiny_clip_folder(path: Path, kind: Literal["clip", "wordpiece"] = "clip", *, seed: int = 0) -> Path:
    """Saves a random CLIP of some thousand weights and its tokenizer in open_clip's ``local-dir:`` layout.

    Args:
        path: The folder, created if absent.
        kind: "clip": ResNet, byte-pair encoding, causal text. "wordpiece": ViT, WordPiece, text without mask.
        seed: Of the weights; the global generator is left as it was.

    Returns:
        ``path``.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    path.mkdir(parents=True, exist_ok=True)
    tokenizer = _byte_pair_tokenizer(path) if kind == "clip" else _wordpiece_tokenizer()
    tokenizer.save_pretrained(path)
    config = json.loads(json.dumps(_CONFIGS[kind]))
    config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**json.loads(json.dumps(config["model_cfg"])))
    # open_clip's initialisation zeroes the end of residual branches; a trained model has no such zeros.
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.constant_(parameter, 0.5)
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "local"
    (path / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path / "open_clip_model.safetensors")
    return path


def _byte_pair_tokenizer(folder: Path) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = alphabet + [letter + "</w>" for letter in alphabet]
    merges = _merges()
    # The end token last: open_clip finds it as the largest id.
    tokens = [*letters, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=CONTEXT_LENGTH)


def _words() -> list[str]:
    return list(dict.fromkeys(word for line in _CORPUS for word in line.split()))


def _merges() -> list[tuple[str, str]]:
    """Returns merges that make each word of the corpus one token.

    The trainers of `tokenizers` break ties by chance: with them each process would have other tokens.
    """
    merges: list[tuple[str, str]] = []
    for word in _words():
        pieces = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:
            pieces = _merged(pieces, pair)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = _merged(pieces, merges[-1])
    return merges


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    done: list[str] = []
    for piece in pieces:
        # A merged piece may be merged again only by a later pair.
        if done and (done[-1], piece) == pair:
            done[-1] += piece
        else:
            done.append(piece)
    return done


def _wordpiece_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted({letter for word in _words() for letter in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *_words()]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT_LENGTH, **names)


def tiny_pipeline(path: Path, *, seed: int = 0) -> Path:
    """Saves a random ``StableDiffusionPipeline`` of some ten thousand weights: 4x8x8 latents, 32x32 pixels.

    The schedule is that of Stable Diffusion 1.x; prompts have `CONTEXT_LENGTH` tokens.

    Args:
        path: The folder, created if absent.
        seed: Of the weights; the global generator is left as it was.

    Returns:
        ``path``.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    path.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = _tiny_networks(_byte_pair_tokenizer(path))
    # A fresh network's noise depends little on the latents; a trained one's is of unit variance.
    with torch.no_grad():
        networks["unet"].conv_out.weight *= 4
    pipeline = StableDiffusionPipeline(
        **networks, scheduler=sd_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    for file in ("vocab.json", "merges.txt"):
        (path / file).unlink()  # of the tokenizer's making; save_pretrained writes its own folder
    pipeline.save_pretrained(path)
    return path


def sd_scheduler() -> Any:
    """DDIM on the schedule of Stable Diffusion 1.x."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _tiny_networks(tokenizer: Any) -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
    )
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(text), "unet": unet, "vae": vae}
