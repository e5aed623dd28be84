"""Scorers of human preference that are CLIPs: HPS v2 and v2.1 (Wu et al. 2023), PickScore (Kirstain et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from sgool.config.weights import folder_files
from sgool.errors import SgoolError
from sgool.models.checkpoints import refuse_broken
from sgool.models.clip import ClipTower
from sgool.models.complete import refuse_missing
from sgool.models.hub import hub_access, not_cached
from sgool.models.image_settings import transformers_preprocess
from sgool.models.preprocess import Preprocess, frozen
from sgool.models.resize import Resize
from sgool.models.tokenizers import refuse_empty


class HumanPreferenceScore(nn.Module):
    """A scorer that returns the cosine of image and prompt in a CLIP that was tuned on human choices.

    The public package returns this number (0.2 to 0.35); published tables show 100 times it. Scores of v2 and v2.1 are
    not comparable. As there, the whole image is seen: its longest side is resized, and the rest is black.

    Args:
        clip: The tuned tower.
    """

    def __init__(self, clip: ClipTower) -> None:
        super().__init__()
        self.clip, self.input_size = clip, clip.input_size
        self._resize = Resize(size=clip.input_size, mode="max_size", on_tensors=True)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embeds prompts to (B, D), each row of norm 1."""
        return self.clip.encode_text(prompts)

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Returns for each prompt the text that the tower does not read, or None."""
        return self.clip.truncated(prompts)

    def forward(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Returns scores (N,) of images (N, 3, h, w), nominally in [0, 1], for prompts of `encode_prompts`."""
        if tuple(images.shape[-2:]) != (self.input_size, self.input_size):
            images = self._resize(images)
        return (self.clip.encode_image(images) * prompts).sum(dim=-1)

    def as_published(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, h, w) as HPS's code shows them to the network: in 8 bits, then resized as floats."""
        return self._resize.as_published(images)


class PickScore(nn.Module):
    """A scorer that returns ``exp(logit_scale)`` times the cosine of image and prompt, about 15 to 25.

    This is how PickScore's authors compute it.

    Args:
        network: transformers' ``CLIPModel``.
        tokenizer: The network's tokenizer.
        preprocess: Preprocessing of its images.
    """

    def __init__(self, network: Any, tokenizer: Any, preprocess: Preprocess) -> None:
        super().__init__()
        self.network, self.preprocess = frozen(network), preprocess
        self.input_size = preprocess.size
        self._tokenizer = tokenizer
        self._length = int(network.config.text_config.max_position_embeddings)

    def train(self, mode: bool = True) -> PickScore:
        """Keeps the network in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embeds prompts to (B, D), each row of norm 1."""
        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self.network.logit_scale.device)
        output = self.network.get_text_features(  # type: ignore[operator]
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return _unit(output)

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Returns for each prompt the text that the network does not read, or None."""
        cut: list[str | None] = []
        for prompt in prompts:
            tokens = self._tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
            rest = tokens[self._length - 2 :]
            cut.append(self._tokenizer.decode(rest).strip() if rest else None)
        return cut

    def forward(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Returns scores (N,) of images (N, 3, h, w), nominally in [0, 1], for prompts of `encode_prompts`."""
        scale = self.network.logit_scale.exp()  # type: ignore[operator]
        pixels = self.preprocess(images, self.network.logit_scale.dtype)
        features = _unit(self.network.get_image_features(pixel_values=pixels))  # type: ignore[operator]
        return scale.to(features.dtype) * (features * prompts).sum(dim=-1)

    def as_published(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, h, w) as PickScore's code shows them to the network: in 8 bits, resized by Pillow."""
        return self.preprocess.resize.as_published(images)


def load_pick_score(model: str, processor: str, *, device: str | torch.device = "cpu") -> PickScore:
    """Loads PickScore in transformers' layout.

    Args:
        model: Folder (``config.json``, ``model.safetensors``) or hub id; the public one is yuvalkirstain/PickScore_v1.
        processor: Folder or hub id of the tokenizer and the image settings (``preprocessor_config.json``).
        device: Device of the network.

    Raises:
        SgoolError: The files are not found, weights are missing or of another shape, or it is another kind of model.
    """
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    if _is_folder(model):
        refuse_broken(folder_files(Path(model)))
    try:
        with nullcontext() if _is_folder(model) and _is_folder(processor) else hub_access() as unreachable:
            loaded: Any = CLIPModel.from_pretrained(model, output_loading_info=True, local_files_only=_is_folder(model))
            tokenizer = AutoTokenizer.from_pretrained(processor, local_files_only=_is_folder(processor))
            images = CLIPImageProcessor.from_pretrained(processor, local_files_only=_is_folder(processor))
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if unreachable:
            what = f"PickScore, {model!r} with the processor {processor!r},"
            raise SgoolError(not_cached(what, unreachable, "give folders in transformers' layout")) from error
        raise SgoolError(
            f"Cannot load PickScore from {model!r} with the processor {processor!r}: "
            f"{' '.join(str(error).split())[:300]}. Expected a folder in transformers' layout (config.json, "
            "model.safetensors; tokenizer and preprocessor_config.json), or a hub id that can be reached."
        ) from error
    network, info = loaded
    refuse_missing(model, network, info["missing_keys"], "Check that it is PickScore's.")
    refuse_empty(lambda text: list(tokenizer(text)["input_ids"]), f"PickScore's processor {processor!r}")
    return PickScore(network, tokenizer, transformers_preprocess(images, processor)).to(device)


def _is_folder(name: str) -> bool:
    """Whether a name is a folder; a user's folder must never cause network access."""
    return Path(name).is_dir()


def _unit(output: Any) -> Tensor:
    """Normalises features to norm 1; transformers 4 returns the features, transformers 5 an output that holds them."""
    features = getattr(output, "pooler_output", output)
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
