"""The samplers and DOODL's update written a second time, slowly, from the papers; shares no code with sgool.

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


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_close(got: Tensor, expected: Tensor, relative: float) -> None:
    """Largest difference against the largest number."""
    assert got.shape == expected.shape
    error = float((got - expected).abs().max()) / float(expected.abs().max())
    assert error <= relative, f"relative error {error:.1e}, above {relative:.0e}"


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
        spacing: Of the timesteps, by the names of Lin et al. 2023, table 2.
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
    spacing: str = "leading"

    def timesteps(self) -> list[int]:
        """Noisiest first; a single one is the last of training."""
        count = self.steps
        if count == 1:
            return [TRAINING_STEPS - 1]
        if self.spacing == "trailing":
            return [round(TRAINING_STEPS * (count - index) / count) - 1 for index in range(count)]
        if self.spacing == "linspace":
            return [round((TRAINING_STEPS - 1) * (1 - index / (count - 1))) for index in range(count)]
        return [(count - 1 - index) * (TRAINING_STEPS // count) + self.offset for index in range(count)]

    def times(self) -> list[tuple[int, int, float, float]]:
        """(index, t, alpha, alpha after) of each step: after is the next one's alpha, or no noise for a single one."""
        timesteps = self.timesteps()
        alphas = [float(self.alphas[t]) for t in timesteps]
        last = float(self.alphas[0]) if self.alpha_after is None else self.alpha_after
        last = 1.0 if self.steps == 1 else last
        return list(zip(range(self.steps), timesteps, alphas, [*alphas[1:], last], strict=True))

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
            x = jump(x, self.eps(x, t), alpha, after)
        return x

    def ddim_back(self, x: Tensor, refinements: int) -> Tensor:
        """Song et al. 2021, section 4.3, with the noise at a guess: x itself first, then what came of the last one."""
        for _, t, alpha, after in reversed(self.times()):
            guess = x
            for _ in range(1 + refinements):
                guess = jump(x, self.eps(guess, t), after, alpha)
            x = guess
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

    def edict_back(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Equations (13) and (14) solved for what they replace, the last line first."""
        p = self.mixing
        for index, t, alpha, after in reversed(self.times()):
            ratio = math.sqrt(after / alpha)
            factor = math.sqrt(1 - after) - math.sqrt(after * (1 - alpha) / alpha)
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            if index % 2 == 0 or not self.leapfrog:
                y = (y - factor * self.eps(x, t)) / ratio
                x = (x - factor * self.eps(y, t)) / ratio
            else:
                x = (x - factor * self.eps(y, t)) / ratio
                y = (y - factor * self.eps(x, t)) / ratio
        return x, y

    def bdia(self, x: Tensor, gamma: float) -> Tensor:
        """Zhang et al. 2023: DDIM's step, and what the same step backwards misses x_{i+1} by, weighted with gamma.

        A step that changes no noise level ends the chain: nothing is left to correct.
        """
        older, before = None, 0.0
        for _, t, alpha, after in self.times():
            if alpha == after:
                break
            eps = self.eps(x, t)
            missed = 0.0 if older is None else older - jump(x, eps, alpha, before)
            older, before, x = x, alpha, jump(x, eps, alpha, after) + gamma * missed
        return x

    def belm(self, x: Tensor) -> Tensor:
        """Wang et al. 2024: in z = x / sqrt(a), the weights that are exact for z a polynomial of degree 2 in s.

        s is noise over signal and dz = eps ds; z is known at i + 1 and i, its slope at i.
        """
        points: list[tuple[Tensor, float]] = []
        for _, t, alpha, after in self.times():
            eps, z = self.eps(x, t), x / math.sqrt(alpha)
            points.append((z, noise_over_signal(alpha)))
            distance = noise_over_signal(after) - points[-1][1]
            if len(points) == 1:
                z = z + distance * eps
            else:
                older, unit = points[-2][0], points[-2][1] - points[-1][1]
                # 1, u, u^2 with u = (s - s_i) / unit: at i + 1 (u = 1), at i (u = 0), and their slopes at i.
                known = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
                u = distance / unit
                wanted = torch.tensor([1.0, u, u**2], dtype=torch.float64)
                a, b, c = torch.linalg.solve(known, wanted).tolist()
                z = a * older + b * z + c * unit * eps
            x = math.sqrt(after) * z
        return x


def jump(x: Tensor, eps: Tensor, alpha: float, after: float) -> Tensor:
    """DDIM from one noise level to any other: the clean latents that eps implies, with that noise added again."""
    clean = (x - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)
    return math.sqrt(after) * clean + math.sqrt(1 - after) * eps


def noise_over_signal(alpha: float) -> float:
    """s = sigma / alpha."""
    return math.sqrt((1 - alpha) / alpha)


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
