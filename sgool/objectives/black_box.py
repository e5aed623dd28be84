"""A term of any Python function of an image, whose gradient is estimated from pairs of perturbed images or left out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sgool.config.locate import locate
from sgool.errors import SgoolError
from sgool.objectives.function import TextTargets
from sgool.objectives.terms import Goal, towards
from sgool.prompts.seeding import pair_generator


class BlackBox(TextTargets):
    """A term: the score that a function gives to PIL images, which need not be differentiable or even smooth.

    The gradient is a zeroth-order estimate (antithetic simultaneous perturbation, Spall 1992): the mean of
    ``(f(x + h d) - f(x - h d)) / (2 h) * d`` over random directions ``d`` among the image's lowest spatial frequencies.
    For small ``h`` its expectation is the gradient's part in these frequencies. For each image, an update calls the
    function ``2 * probes + 1`` times for the loss, and once more for the selection score.

    Args:
        function: Function ``score(image)`` or ``score(image, prompt=...)`` that returns a number.
        goal: ``maximize``, ``minimize`` or a number to aim at.
        gradient: ``spsa``, or ``none``: then the score only takes part in the choice of the final image.
        probes: Number of directions in an update.
        sigma: Root mean square of the perturbation, in [0, 1]; below 1 / 255 it is lost in the images' 8 bits.
        frequencies: How many of the lowest cosines in each direction and channel are perturbed.
        name: Name in logs.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        goal: Goal = "maximize",
        *,
        gradient: Literal["spsa", "none"] = "spsa",
        probes: int = 8,
        sigma: float = 0.05,
        frequencies: int = 8,
        name: str = "black_box",
    ) -> None:
        super().__init__()
        self.name, self.goal, self.gradient = name, goal, gradient
        self.probes, self.sigma, self.frequencies = probes, sigma, frequencies
        self._function, self._wants_prompt = function, _wants_prompt(function)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (B,) of images (B, 3, H, W), without gradient."""
        values = [self._loss(view, prompt) for view, prompt in zip(views.detach(), self.texts(targets), strict=True)]
        return torch.tensor(values, dtype=torch.promote_types(views.dtype, torch.float32), device=views.device)

    def seeded(self, views: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
        """Returns losses (B,) with an estimated gradient; each image's directions are drawn from its own seed."""
        values = self(views, targets)
        if not (torch.is_grad_enabled() and views.requires_grad):
            return values
        if self.gradient == "none":
            return _WithGradient.apply(views, values, torch.zeros_like(views))
        estimates = [
            self._estimate(view, prompt, seed)
            for view, prompt, seed in zip(views.detach(), self.texts(targets), seeds, strict=True)
        ]
        return _WithGradient.apply(views, values, torch.stack(estimates))

    def _estimate(self, image: Tensor, prompt: str, seed: int) -> Tensor:
        generator = pair_generator(seed, f"probes {self.name}")
        shape = (self.probes, 3, *(min(self.frequencies, side) for side in image.shape[-2:]))
        signs = torch.randint(0, 2, shape, generator=generator).to(image.device, image.dtype) * 2 - 1
        return spsa_gradient(lambda probe: self._loss(probe, prompt), image, signs, self.sigma)

    def _loss(self, image: Tensor, prompt: str) -> float:
        """Returns the loss of one image; NaN for an image that is not finite, which the function never sees."""
        if not bool(image.isfinite().all()):
            return math.nan
        pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        options = {"prompt": prompt} if self._wants_prompt else {}
        score = self._function(Image.fromarray(np.ascontiguousarray(pixels)), **options)
        try:
            value = float(score)
        except (TypeError, ValueError) as error:
            raise SgoolError(
                f"objective.terms.{self.name}: {_name(self._function)} should return a number, got {score!r}"
            ) from error
        return float(towards(torch.tensor(value, dtype=torch.float64), self.goal))


def build_black_box(function: str, goal: Goal, name: str, **options: Any) -> BlackBox:
    """Builds the term of a validated configuration from its options, those of `BlackBoxOptions`.

    Raises:
        SgoolError: There is nothing at the dotted path ``function``.
    """
    return BlackBox(locate(function, f"objective.terms.{name}.function"), goal, **options, name=name)


def spsa_gradient(function: Callable[[Tensor], float], image: Tensor, signs: Tensor, sigma: float) -> Tensor:
    """Estimates a function's gradient at an image, within the image's lowest spatial frequencies.

    Args:
        function: Function of an image (3, H, W) that returns a number.
        image: The image (3, H, W).
        signs: Coefficients (K, 3, m, n) of K directions, each -1 or 1.
        sigma: Root mean square of each perturbation over the pixels.

    Returns:
        (3, H, W), the mean over the directions.
    """
    rows = cosine_basis(image.shape[-2], signs.shape[-2]).to(image)
    columns = cosine_basis(image.shape[-1], signs.shape[-1]).to(image)
    directions = torch.einsum("hm,kcmn,wn->kchw", rows, signs.to(image), columns)
    # A direction's norm is the root of its number of coefficients, because the basis is orthonormal.
    step = sigma * math.sqrt(image.numel() / signs[0].numel())
    slopes = [(function(image + step * d) - function(image - step * d)) / (2 * step) for d in directions]
    return torch.einsum("k,kchw->chw", torch.tensor(slopes).to(image), directions) / len(directions)


def cosine_basis(length: int, number: int) -> Tensor:
    """Returns the first orthonormal vectors of the discrete cosine transform (DCT-II), (length, number) in float64."""
    positions = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    waves = torch.cos(math.pi * positions[:, None] * torch.arange(number, dtype=torch.float64))
    return waves / waves.norm(dim=0)


class _WithGradient(torch.autograd.Function):
    """Autograd function that gives values a gradient which was estimated without autograd."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0].to(gradient.dtype).view(-1, 1, 1, 1) * gradient, None, None


def _wants_prompt(function: Callable[..., Any]) -> bool:
    try:
        return "prompt" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # builtins without a signature
        return False


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
