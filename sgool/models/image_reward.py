"""ImageReward (Xu et al. 2023): BLIP encodes the prompt with attention to the image, and a head gives the reward.

The network consists of timm's vision transformer and transformers' BLIP text encoder, whose parameters have the names
of the public file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.aesthetic import layered_head
from sgool.models.checkpoints import below, first_tensor, load_strictly, read_state
from sgool.models.hub import hub_access, not_cached
from sgool.models.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess, frozen
from sgool.models.tokenizers import refuse_empty

#: Mean and standard deviation of the raw rewards, with which the public package normalises.
REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072
#: Tokens that the network reads of a prompt, special ones included.
TEXT_LENGTH = 35
#: Values of the public med_config.json.
_TEXT_CONFIG: dict[str, Any] = {
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
#: Parts of the public file that the reward does not use.
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")


class ImageReward(nn.Module):
    """A scorer of images for prompts: human preference, in standard deviations.

    Args:
        vision: timm's vision transformer, which returns all tokens.
        text: transformers' ``BlipTextModel`` with cross attention.
        head: Maps features (N, D) to rewards (N, 1).
        tokenizer: BERT's tokenizer.
    """

    def __init__(self, vision: nn.Module, text: nn.Module, head: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.vision, self.text, self.head = frozen(vision), frozen(text), frozen(head)
        self._tokenizer = tokenizer
        size = int(vision.patch_embed.img_size[0])  # type: ignore[union-attr, index]
        self.preprocess = Preprocess(size, OPENAI_MEAN, OPENAI_STD, "bicubic")
        self.input_size = size

    def train(self, mode: bool = True) -> ImageReward:
        """Keeps the networks in evaluation mode."""
        return super().train(False)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Tokenizes prompts to a long tensor (B, 70): 35 token ids, then the attention mask."""
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
        )
        return torch.cat([tokens["input_ids"], tokens["attention_mask"]], dim=1).to(next(self.parameters()).device)

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Returns for each prompt the text beyond 35 tokens, or None."""
        cut = []
        for prompt in prompts:
            tokens = self._tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
            rest = tokens[TEXT_LENGTH - 2 :]
            cut.append(self._tokenizer.decode(rest) if rest else None)
        return cut

    def forward(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Returns rewards (N,) of images (N, 3, h, w), nominally in [0, 1], for prompts of `encode_prompts`."""
        dtype = next(self.vision.parameters()).dtype
        tokens = self.vision.forward_features(self.preprocess(images, dtype))  # type: ignore[operator]
        ids, mask = prompts.split(TEXT_LENGTH, dim=1)
        # With is_decoder=False every token attends to every other. With a causal mask the first token, whose output is
        # used, would see nothing of the prompt.
        output = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=tokens, is_decoder=False, return_dict=True
        )
        first = output.last_hidden_state[:, 0].to(torch.promote_types(dtype, torch.float32))
        reward = self.head(first.to(next(self.head.parameters()).dtype))[:, 0]
        return (reward.to(first.dtype) - REWARD_MEAN) / REWARD_STD

    def as_published(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, h, w) as ImageReward's code shows them to the network: in 8 bits, resized by Pillow."""
        return self.preprocess.resize.as_published(images)


def load_image_reward(
    checkpoint: str,
    med_config: str | None = None,
    tokenizer: str = "bert-base-uncased",
    *,
    device: str | torch.device = "cpu",
) -> ImageReward:
    """Loads ``ImageReward.pt`` without the package of that name.

    Args:
        checkpoint: The file ``ImageReward.pt``.
        med_config: The file ``med_config.json``; None: the published values.
        tokenizer: Folder or hub id of BERT's tokenizer.
        device: Device of the networks.

    Raises:
        SgoolError: A file or the tokenizer is missing, or the file has another layout.
    """
    state = {name: value for name, value in read_state(checkpoint).items() if not name.startswith(_UNUSED)}
    other = [name for name in state if not name.startswith(("blip.visual_encoder.", "blip.text_encoder.", "mlp."))]
    if other:
        raise SgoolError(
            f"{checkpoint} is no ImageReward checkpoint: expected names that start with blip. or mlp., got "
            f"{', '.join(other[:5])}. Check that the file belongs to this model."
        )
    vision = _vision(below(state, "blip.visual_encoder."), checkpoint)
    text = _text(below(state, "blip.text_encoder."), vision.embed_dim, med_config, checkpoint)  # type: ignore[arg-type]
    head = layered_head(below(state, "mlp."), checkpoint)
    words = load_tokenizer(tokenizer)
    refuse_empty(lambda letters: list(words(letters)["input_ids"]), f"ImageReward's tokenizer {tokenizer!r}")
    network = ImageReward(vision, text, head, words)
    return network.to(device)


def load_tokenizer(name: str) -> Any:
    """Loads a tokenizer from a folder or the hub.

    Raises:
        SgoolError: The tokenizer is not found or incomplete.
    """
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        with hub_access() as unreachable:
            return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if not folder.is_dir() and unreachable:
            raise SgoolError(not_cached(f"The tokenizer {name!r}", unreachable, "give a tokenizer's folder")) from error
        raise SgoolError(
            f"Cannot load the tokenizer {name!r}: {' '.join(str(error).split())[:200]}. Expected a folder with a "
            "tokenizer's files, or a hub id that can be reached."
        ) from error


def _vision(state: Mapping[str, Tensor], source: str) -> nn.Module:
    """Builds the vision transformer with the sizes of the weights (ViT-L/16 at 224 pixels in the public file).

    Each attention head has 64 channels, as in BLIP.
    """
    from timm.models.vision_transformer import VisionTransformer

    what = "ImageReward checkpoint"
    patches = first_tensor(state, ["patch_embed.proj.weight"], source, what)
    positions = first_tensor(state, ["pos_embed"], source, what).shape[1] - 1
    hidden = first_tensor(state, ["blocks.0.mlp.fc1.weight"], source, what)
    width, patch = patches.shape[0], patches.shape[-1]
    vision = VisionTransformer(
        img_size=round(positions**0.5) * patch,
        patch_size=patch,
        embed_dim=width,
        depth=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        num_heads=max(1, width // 64),
        mlp_ratio=hidden.shape[0] / width,
        num_classes=0,
        global_pool="",
    )
    load_strictly(vision, state, source)
    return vision


def _text(state: Mapping[str, Tensor], vision_width: int, med_config: str | None, source: str) -> nn.Module:
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    words = first_tensor(state, ["embeddings.word_embeddings.weight"], source, "ImageReward checkpoint")
    options = {**_TEXT_CONFIG, **(_read_config(med_config) if med_config else {})}
    config = BlipTextConfig(
        # is_decoder gives the layers cross attention here; each call chooses the mask.
        **{**options, "vocab_size": words.shape[0], "encoder_hidden_size": vision_width, "is_decoder": True}
    )
    text = BlipTextModel(config, add_pooling_layer=False)
    load_strictly(text, state, source)
    return text


def _read_config(path: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SgoolError(f"Cannot read {path} as JSON: {error}. Expected ImageReward's med_config.json.") from error
    missing = [key for key in ("num_attention_heads", "num_hidden_layers", "hidden_size") if key not in content]
    if missing:
        raise SgoolError(f"{path} lacks {', '.join(missing)}. Expected ImageReward's med_config.json.")
    return {key: content[key] for key in _TEXT_CONFIG if key in content}
