"""What a loss term is. Terms judge views of an image; `docs/objectives.md` shows how to write one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from sgool.types import PromptSeed

#: What to do with a score: raise it, lower it, or bring it to a number.
Goal = Literal["maximize", "minimize"] | float


@runtime_checkable
class Term(Protocol):
    """One differentiable loss on views, each view on its own.

    A term whose loss is a random estimate also has ``seeded(views, targets, seeds)``, called instead of the term itself
    while the latents are optimised, with one whole number per view. It depends on the pair, the stream and the update.
    A term whose networks `sgool.models.fingerprint.fingerprints` does not find among its attributes may have a method
    ``fingerprints()``, which returns theirs: a judge that shares one is no evidence.
    A term that cuts prompts off may have ``truncated(prompts)``: per prompt what it does not read, or None.

    Attributes:
        name: Short name for logs.
        input_size: Side in pixels of the views that the term wants: random crops and salient regions, resized. None:
            the whole image as it is, once, neither crops nor regions.
    """

    @property
    def name(self) -> str:
        """Short name for logs."""
        ...

    @property
    def input_size(self) -> int | None:
        """Side in pixels of the views that the term wants; None: the whole image as it is."""
        ...

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """(B, D), one row per pair, computed once per fit; a row must not depend on the other pairs."""
        ...

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Loss (N,), smaller is better, of views (N, 3, s, s), nominally in [0, 1], for targets (N, D)."""
        ...


@runtime_checkable
class SeededTerm(Term, Protocol):
    """A term whose loss, or its gradient, is a random estimate."""

    def seeded(self, views: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
        """The loss (N,) with randomness from ``seeds``, one per view."""
        ...


def towards(scores: Tensor, goal: Goal) -> Tensor:
    """The loss of scores for a goal; its slope is 1, -1 or a sign, so that weights keep their meaning."""
    if goal == "maximize":
        return -scores
    if goal == "minimize":
        return scores
    return (scores - float(goal)).abs()


def view_size(views: Literal["crops", "whole"], input_size: int) -> int | None:
    """A term's ``input_size`` for the configuration's ``views``."""
    return input_size if views == "crops" else None
