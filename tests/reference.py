"""DOODL's chain and update written a second time, slowly, from the papers' formulas; shares no code with sgool.

Everything is float64. Randomness (first latents, crop boxes, perturbations) is given by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

TRAINING_STEPS = 1000


def alphas_cumprod() -> Tensor:
    """Stable Diffusion 1.x: betas are the squares of evenly spaced roots; (1000,) float64."""
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, TRAINING_STEPS, dtype=torch.float64)
    return torch.cumprod(1 - roots**2, dim=0)


def scheduler64(**changes: Any) -> Any:
    """Stable Diffusion 1.x's DDIMScheduler with a float64 table."""
    from diffusers import DDIMScheduler

    config = {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False, **changes}
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **config)
    scheduler.alphas_cumprod = alphas_cumprod()
    one = torch.ones((), dtype=torch.float64)
    scheduler.final_alpha_cumprod = one if config["set_alpha_to_one"] else scheduler.alphas_cumprod[0]
    return scheduler


@dataclass
class Chain:
    """Everything a denoising chain needs.

    Attributes:
        unet: Network in float64.
        text: (B, L, D) embeddings of the prompts.
        negative: (B, L, D) embeddings of the negative prompts.
        steps: Number of denoising steps S.
        guidance: Weight of classifier-free guidance.
        offset: Added to every timestep.
        mixing: EDICT's p.
        leapfrog: Whether odd steps start with the second stream.
        prediction: What the network predicts.
        alpha_after: Cumulative alpha after the last step; None: the first of training.
    """

    unet: Any
    text: Tensor
    negative: Tensor
    steps: int
    guidance: float = 7.5
    offset: int = 1
    mixing: float = 0.93
    leapfrog: bool = True
    prediction: str = "epsilon"
    alpha_after: float | None = None
    alphas: Tensor = field(default_factory=alphas_cumprod)

    def times(self) -> list[tuple[int, int, float, float]]:
        """(index, t, alpha, alpha after) of each step; leading spacing."""
        distance = TRAINING_STEPS // self.steps
        rows = []
        for index in range(self.steps):
            t = (self.steps - 1 - index) * distance + self.offset
            before = t - distance
            last = float(self.alphas[0]) if self.alpha_after is None else self.alpha_after
            rows.append((index, t, float(self.alphas[t]), float(self.alphas[before]) if before >= 0 else last))
        return rows

    def eps(self, x: Tensor, t: int) -> Tensor:
        """Noise under guidance, from two separate passes."""
        positive = self.unet(x, t, encoder_hidden_states=self.text).sample
        negative = self.unet(x, t, encoder_hidden_states=self.negative).sample
        output = negative + self.guidance * (positive - negative)
        alpha = float(self.alphas[t])
        if self.prediction == "v_prediction":
            return math.sqrt(alpha) * output + math.sqrt(1 - alpha) * x
        if self.prediction == "sample":
            return (x - math.sqrt(alpha) * output) / math.sqrt(1 - alpha)
        return output

    def ddim(self, x: Tensor) -> Tensor:
        """Song et al. 2021: predict the clean latents, then point from there to the noise."""
        for _, t, alpha, after in self.times():
            eps = self.eps(x, t)
            clean = (x - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)
            x = math.sqrt(after) * clean + math.sqrt(1 - after) * eps
        return x

    def edict(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Wallace et al. 2023, with the leapfrog order of the authors' code."""
        p = self.mixing
        for index, t, alpha, after in self.times():
            ratio = math.sqrt(after / alpha)
            factor = math.sqrt(1 - after) - math.sqrt(after * (1 - alpha) / alpha)
            if index % 2 == 0 or not self.leapfrog:
                x = ratio * x + factor * self.eps(y, t)
                y = ratio * y + factor * self.eps(x, t)
            else:
                y = ratio * y + factor * self.eps(x, t)
                x = ratio * x + factor * self.eps(y, t)
            x = p * x + (1 - p) * y
            y = (1 - p) * x + p * y
        return x, y


def spherical(u: Tensor, v: Tensor) -> Tensor:
    """2 asin(|u/|u| - v/|v|| / 2)^2 of two vectors."""
    return 2 * torch.asin((u / u.norm() - v / v.norm()).norm() / 2) ** 2


@dataclass
class Update:
    """DOODL's knobs; the defaults are the paper's. ``longest``: ReNO's limit on the norm of the whole step."""

    clip: float = 1e-3
    momentum: float = 0.9
    tie: bool = True
    renormalise: bool = True
    rate: float = 1.0
    nesterov: bool = False
    longest: float | None = None


def optimise(
    pair: list[Tensor],
    losses: Callable[[list[Tensor], int], Sequence[Tensor]],
    updates: int,
    knobs: Update,
    noise: Callable[[int], Tensor],
    penalty: Callable[[Tensor], Tensor] | None = None,
) -> list[list[Tensor]]:
    """The latents (one or two streams of one prompt) before each update and after the last.

    ``losses(pair, update)``: the loss of each image, or of the first one alone; ``noise(update)``: what is added to
    every stream; ``penalty(latents)``: a further loss of each stream's own latents.
    """
    radii = [latents.norm() for latents in pair]
    velocity: list[Tensor] | None = None
    visited = [[latents.clone() for latents in pair]]
    for update in range(updates):
        leaves = [latents.clone().requires_grad_(True) for latents in pair]
        total = sum(losses(leaves, update))
        if penalty is not None:
            total = total + sum(penalty(leaf) for leaf in leaves)
        gradients = list(torch.autograd.grad(total, leaves))
        # The authors' factor is 0.5 for the pair, also where only its first image is judged.
        steps = [-gradient / len(pair) for gradient in gradients]
        if knobs.tie:
            steps = [sum(steps) / len(steps)] * len(steps)  # type: ignore[list-item]
        if knobs.longest is not None:
            length = math.sqrt(sum(float((step**2).sum()) for step in steps))
            steps = [step * min(1.0, knobs.longest / length) for step in steps]
        steps = [step.clamp(-knobs.clip, knobs.clip) for step in steps]
        if velocity is None:
            velocity = steps
        else:
            velocity = [knobs.momentum * v + step for v, step in zip(velocity, steps, strict=True)]
        moved = velocity
        if knobs.nesterov:
            moved = [step + knobs.momentum * v for step, v in zip(steps, velocity, strict=True)]
        pair = [latents + knobs.rate * v + noise(update) for latents, v in zip(pair, moved, strict=True)]
        if knobs.tie:
            pair = [sum(pair) / len(pair)] * len(pair)  # type: ignore[list-item]
        if knobs.renormalise:
            pair = [latents * radius / latents.norm() for latents, radius in zip(pair, radii, strict=True)]
        visited.append([latents.clone() for latents in pair])
    return visited
