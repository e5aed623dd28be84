"""Loss terms: each judges views of an image against something made from the pair's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sgool.models.clip import ClipTower
from sgool.objectives.spherical import spherical_distance
from sgool.types import PromptSeed


@runtime_checkable
class Term(Protocol):
    """One differentiable loss on views, each view on its own.

    Attributes:
        name: Short name for logs.
        input_size: Side in pixels of the views that the term wants.
    """

    @property
    def name(self) -> str:
        """Short name for logs."""
        ...

    @property
    def input_size(self) -> int:
        """Side in pixels of the views that the term wants."""
        ...

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """(B, D), one row per pair, computed once per fit; a row must not depend on the other pairs."""
        ...

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Loss (N,), smaller is better, of views (N, 3, s, s), nominally in [0, 1], for targets (N, D)."""
        ...


class TextAlignment:
    """Spherical distance of a view to the prompt in a CLIP's space (the loss of DOODL and SGOOL).

    Args:
        clip: The tower.
        name: Name in logs; several towers in one objective need different ones.
    """

    def __init__(self, clip: ClipTower, name: str = "text") -> None:
        self.clip = clip
        self.name = name
        self.input_size = clip.input_size

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """(B, D): the prompts' embeddings, each computed alone, so that rounding is the same in every batch."""
        return torch.cat([self.clip.encode_text([pair.prompt]) for pair in pairs])

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """(N,) in [0, pi^2 / 2] for views (N, 3, s, s) and targets (N, D)."""
        return spherical_distance(self.clip.encode_image(views), targets)
