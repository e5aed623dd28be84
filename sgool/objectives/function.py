"""A term of a differentiable Python function of images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.types import PromptSeed


class TextTargets:
    """Base class of terms that a function computes: their targets are the prompts themselves."""

    input_size = None

    def __init__(self) -> None:
        self._prompts: list[str] = []

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns no problem: the function is given any text."""
        return []

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Returns the prompts' indices in the term's own list, a long tensor (B, 1)."""
        for pair in pairs:
            if pair.prompt not in self._prompts:
                self._prompts.append(pair.prompt)
        return torch.tensor([[self._prompts.index(pair.prompt)] for pair in pairs])

    def texts(self, targets: Tensor) -> list[str]:
        """Returns the prompts of targets (N, 1)."""
        return [self._prompts[index] for index in targets[:, 0].tolist()]


class FunctionTerm(TextTargets):
    """A term: the losses that a function gives to whole images, by torch operations, so that gradients flow.

    `sgool.objectives.BlackBox` is for functions of PIL images, which need no gradient.

    Args:
        function: Called as ``function(images)`` or, if it has a parameter ``prompts``, as
            ``function(images, prompts=[...])``. Images are (N, 3, H, W), nominally in [0, 1]. It returns losses (N,),
            lower is better, each of its own image alone.
        name: Name in histories.

    Raises:
        SgoolError: At its first call: the function returns no tensor of N losses.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        super().__init__()
        self.name = name or getattr(function, "__name__", type(function).__name__).strip("<>")
        self._function = function
        try:
            self._wants_prompts = "prompts" in inspect.signature(function).parameters
        except (TypeError, ValueError):  # some callables of C have no signature
            self._wants_prompts = False

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns the function's losses (N,) of images (N, 3, H, W)."""
        prompts = self.texts(targets)
        found = self._function(views, **({"prompts": prompts} if self._wants_prompts else {}))
        if not isinstance(found, Tensor) or tuple(found.shape) != (len(views),):
            got = (
                f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            )
            raise SgoolError(
                f"the objective's function {self.name}: expected a tensor with one loss for each of the {len(views)} "
                f"images, of shape ({len(views)},), got {got}; `loss.mean(dim=(1, 2, 3))` makes one of a loss per pixel"
            )
        return found
