"""LAION's aesthetic predictors: a small head on the normalised embedding of OpenAI's CLIP (v1 linear, v2 layered)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.assets import resolve_asset
from sgool.models.checkpoints import State, first_tensor, load_strictly, read_state
from sgool.models.clip import ClipTower
from sgool.models.fingerprint import fingerprints
from sgool.models.preprocess import frozen

#: Indices of the linear layers in the head of v2 and ImageReward; between them is dropout, and no activations.
_LINEAR = (0, 2, 4, 6, 7)


class LayeredHead(nn.Module):
    """A head of five linear layers, numbered as in the public files (0, 2, 4, 6, 7).

    The files' dropout layers are left out, since they do nothing in evaluation.

    Args:
        sizes: Six widths, from the embedding's to 1.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Identity() for _ in range(_LINEAR[-1] + 1)))
        for index, width, following in zip(_LINEAR, sizes, sizes[1:], strict=False):
            self.layers[index] = nn.Linear(width, following)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features (N, D) to scores (N, 1)."""
        return self.layers(features)


def layered_head(state: State, source: str) -> LayeredHead:
    """Builds the head with the widths and weights of a state dict (``layers.0.weight``, ...)."""
    weights = [first_tensor(state, [f"layers.{i}.weight"], source, "aesthetic or reward head") for i in _LINEAR]
    head = LayeredHead([weights[0].shape[-1], *(weight.shape[0] for weight in weights)])
    load_strictly(head, state, source)
    return head


class AestheticPredictor(nn.Module):
    """A scorer that rates images from about 1 to 10, whatever the prompt.

    Args:
        clip: The tower whose embeddings the head was trained on.
        head: Maps embeddings (N, D) to ratings (N, 1).
        source: File of the head, for messages.

    Raises:
        SgoolError: The head takes embeddings of another width.
    """

    def __init__(self, clip: ClipTower, head: nn.Module, source: str) -> None:
        super().__init__()
        self.clip, self.head = clip, frozen(head)
        self.input_size = clip.input_size
        width = next(head.parameters()).shape[-1]
        given = clip.encode_text([""]).shape[-1]
        if width != given:
            raise SgoolError(
                f"The aesthetic head in {source} takes embeddings of {width} numbers, but the CLIP {clip.name!r} gives "
                f"{given}. Expected the CLIP that the head was trained on: 512 for ViT-B-32 and ViT-B-16, 768 for "
                "ViT-L-14, each OpenAI's."
            )

    def fingerprints(self) -> frozenset[str]:
        """Returns the fingerprints of the CLIP and of the head, since a judge may share only one of them."""
        return fingerprints([self.clip, self.head])

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Returns an empty tensor (B, 0), since the rating does not depend on prompts."""
        return torch.zeros(len(prompts), 0, device=self.clip.device)

    def forward(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Returns ratings (N,) of images (N, 3, h, w), nominally in [0, 1]."""
        features = self.clip.encode_image(images)
        weight = next(self.head.parameters())
        return self.head(features.to(weight.dtype))[:, 0].to(features.dtype)

    def as_published(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, h, w) as the CLIP's own code shows them to it: in 8 bits, resized by Pillow."""
        return self.clip.as_published(images)


def load_aesthetic(clip: ClipTower, checkpoint: str) -> AestheticPredictor:
    """Loads a predictor from ``sa_0_4_vit_*_linear.pth`` (v1) or ``sac+logos+ava1-l14-linearMSE.pth`` (v2).

    Args:
        clip: The tower whose embeddings the head was trained on.
        checkpoint: The head's file, or an embedded one: ``emoji_world/aesthetic/guide.safetensors`` for the guide.

    Raises:
        SgoolError: There is no such file, it has another layout, or the head belongs to another CLIP.
    """
    state = read_state(resolve_asset(checkpoint))
    head: Any
    if "weight" in state:
        head = nn.Linear(state["weight"].shape[-1], 1)
        load_strictly(head, state, checkpoint)
    else:
        head = layered_head(state, checkpoint)
    return AestheticPredictor(clip, head.to(clip.device), checkpoint).to(clip.device)
