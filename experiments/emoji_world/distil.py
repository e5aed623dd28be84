"""Distilling a denoiser into a student that paints in a few steps, with guidance folded in, for any prediction type.

`ConsistencyStage` teaches the student to name, at each time of a grid, the end of the guided teacher's trajectory;
`MatchingStage` then moves its images towards the teacher's distribution. What depends on the denoiser (its inputs, what
it predicts, its times) is in a `Lesson`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.emoji_world.common import Stage


@dataclass(frozen=True)
class Lesson:
    """What a student learns from. Noisy latents are ``alpha`` x clean ones + ``sigma`` x noise.

    A *condition* is a tuple of tensors (B, ...) that the denoiser takes beside latents and timesteps. *Grid times* are
    integers from 0 (clean) to ``grid`` (noise alone).

    Attributes:
        scenes: Training scenes, for captions.
        latents: Their latents (N, C, H, W), scaled as the denoiser takes them.
        teacher: The denoiser, frozen.
        text_encoder: Frozen.
        tokenizer: The text encoder's.
        guidance_scale: Guidance of the teacher that the student has without asking twice.
    """

    scenes: list
    latents: Tensor
    teacher: nn.Module
    text_encoder: Any
    tokenizer: Any
    guidance_scale: float = 4.0

    #: Name of the student within its stage, and so in its checkpoints.
    network: ClassVar[str]
    #: Number of grid times.
    grid: ClassVar[int]
    #: Grid times that sampling uses, from the noisiest on, as multiples of the last; half of the training is there.
    used: ClassVar[tuple[int, ...]]
    #: Share of the steps -> grid times of the teacher's hop from there on.
    hops: ClassVar[tuple[tuple[float, int], ...]]
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format

    def caption(self, scene: Any, rng: np.random.Generator) -> str:
        """A caption for training."""
        raise NotImplementedError

    def condition(self, texts: Sequence[str]) -> tuple[Tensor, ...]:
        """The condition of captions, without gradients."""
        raise NotImplementedError

    def prepared(self, condition: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
        """The condition as the network is to see it at a step of the training."""
        return condition

    def without_prompt(self, empty: tuple[Tensor, ...], condition: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The condition of one empty prompt, in the shapes of another condition."""
        return tuple(part.expand_as(like) for part, like in zip(empty, condition, strict=True))

    def signal(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha`` and ``sigma`` (B, 1, 1, 1) at grid times (B,)."""
        raise NotImplementedError

    def timesteps(self, times: Tensor) -> Tensor:
        """What the network is told at grid times from 1 on."""
        raise NotImplementedError

    def level(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Timesteps (B,), ``alpha``, ``sigma`` (B, 1, 1, 1) and the weight (B,) of the network's error there.

        For `MatchingStage`, from numbers (B,) in [0, 1).
        """
        raise NotImplementedError

    def predict(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, *condition: Tensor) -> Tensor:
        """Calls a denoiser."""
        raise NotImplementedError

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What a denoiser should predict."""
        raise NotImplementedError

    def parts(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The noise and the clean latents that a prediction means."""
        raise NotImplementedError


class StudentStage(Stage):
    """A student, its teacher and their batches; `ConsistencyStage` and `MatchingStage` have the losses."""

    def __init__(self, lesson: Lesson, *, batch_size: int = 32, compile: bool = True, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        setattr(self, lesson.network, self._copied(lesson))
        self._lesson, self.batch_size = (lesson,), batch_size  # in a tuple: its networks are not this module's
        self._student = torch.compile(self._predict) if compile else self._predict
        self._empty = lesson.condition([""])  # here, and so in full precision

    @staticmethod
    def _copied(lesson: Lesson) -> nn.Module:
        network = copy.deepcopy(lesson.teacher).requires_grad_(True).train()
        return network.to(memory_format=lesson.memory_format)  # type: ignore[call-overload]

    @property
    def student(self) -> nn.Module:
        """The network that is trained."""
        return getattr(self, self._lesson[0].network)

    def batch(self, rng: np.random.Generator) -> tuple:
        """Clean latents, two noises (2, B, C, H, W), grid times (B,), uniform numbers (B,) and the condition's parts.

        Half of the times are those that sampling in a few steps uses.
        """
        lesson = self._lesson[0]
        index = rng.integers(len(lesson.scenes), size=self.batch_size)
        condition = lesson.condition([lesson.caption(lesson.scenes[i], rng) for i in index])
        clean = lesson.latents[torch.from_numpy(index)].float()
        noise = torch.from_numpy(rng.standard_normal((2, *clean.shape), dtype=np.float32))
        times = np.where(
            rng.random(self.batch_size) < 0.5,
            np.asarray(lesson.used)[rng.integers(len(lesson.used), size=self.batch_size)],
            rng.integers(1, lesson.grid + 1, self.batch_size),
        )
        uniform = torch.from_numpy(rng.random(self.batch_size, dtype=np.float32))
        return clean, noise, torch.from_numpy(times), uniform, *lesson.prepared(condition, self.step)

    def noisy(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Latents at grid times; at the noisiest nothing but noise, as in sampling."""
        lesson = self._lesson[0]
        alpha, sigma = lesson.signal(times)
        noisy = torch.where((times == lesson.grid).view(-1, 1, 1, 1), noise, alpha * clean + sigma * noise)
        return noisy.contiguous(memory_format=lesson.memory_format)

    def denoised(
        self, noisy: Tensor, times: Tensor, *condition: Tensor, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """The student's x0; ``network`` instead of the compiled one (of which each mode is compiled for minutes)."""
        lesson = self._lesson[0]
        output = (network or self._student)(noisy, lesson.timesteps(times), *condition).float()
        return lesson.parts(noisy, output, *lesson.signal(times))[1]

    @torch.no_grad()
    def taught(
        self, noisy: Tensor, alpha: Tensor, sigma: Tensor, timesteps: Tensor, *condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The guided teacher's noise and x0."""
        lesson = self._lesson[0]
        both = [torch.cat(pair) for pair in zip(lesson.without_prompt(self._empty, condition), condition, strict=True)]
        output = lesson.predict(lesson.teacher, noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), *both).float()
        free, bound = output.chunk(2)
        return lesson.parts(noisy, free + lesson.guidance_scale * (bound - free), alpha, sigma)

    def _predict(self, noisy: Tensor, timesteps: Tensor, *condition: Tensor) -> Tensor:
        return self._lesson[0].predict(self.student, noisy, timesteps, *condition)


class ConsistencyStage(StudentStage):
    """Consistency distillation (Song et al. 2023; in latents, with guidance: Luo et al. 2023, LCM) with falling hops.

    The teacher makes one deterministic step down the grid, and the student must say of both ends the same x0. At first
    that step goes to x0 itself, which folds the guidance in; then it is halved again and again (after the schedule of
    Geng et al. 2024, "Consistency models made easy").
    """

    def hop(self) -> int:
        """Grid times of the teacher's step, at this point of training."""
        return [hop for share, hop in self._lesson[0].hops if self.step >= share * self.max_steps][-1]

    def loss(  # type: ignore[override]
        self, clean: Tensor, noise: Tensor, times: Tensor, uniform: Tensor, *condition: Tensor
    ) -> dict[str, Tensor]:
        """Pseudo-Huber distance between the student's x0 and that of the trajectory's next point."""
        lesson = self._lesson[0]
        noisy = self.noisy(clean, noise[0], times)
        lower = (times - self.hop()).clamp_min(0)
        eps, x0 = self.taught(noisy, *lesson.signal(times), lesson.timesteps(times), *condition)
        alpha, sigma = lesson.signal(lower)
        target = x0
        if bool((lower > 0).any()):
            with torch.no_grad():
                moved = (alpha * x0 + sigma * eps).contiguous(memory_format=lesson.memory_format)
                named = self.denoised(moved, lower.clamp_min(1), *condition, network=self._predict)
            target = torch.where((lower > 0).view(-1, 1, 1, 1), named, x0)
        error = (self.denoised(noisy, times, *condition) - target).square().flatten(1).mean(1)
        values = {"loss": ((error + 1e-4).sqrt() - 1e-2).mean(), "mse": error.mean()}
        first = times == lesson.grid
        return values | ({"mse_first": error[first].mean()} if bool(first.any()) else {})


class MatchingStage(StudentStage):
    """Distribution matching distillation (Yin et al. 2024, DMD and DMD2) with one optimiser for both networks.

    ``fake`` learns the scores of the student's images while the student moves them by the difference of the guided
    teacher's and the fake's x0.
    """

    def __init__(self, lesson: Lesson, *, fake_rate: float = 1.0, compile: bool = True, **kwargs: object) -> None:
        super().__init__(lesson, compile=compile, **kwargs)  # type: ignore[arg-type]
        self.fake = self._copied(lesson)
        self.fake_rate = fake_rate
        self._fake = torch.compile(self._predict_fake) if compile else self._predict_fake

    def _predict_fake(self, noisy: Tensor, timesteps: Tensor, *condition: Tensor) -> Tensor:
        return self._lesson[0].predict(self.fake, noisy, timesteps, *condition)

    def loss(  # type: ignore[override]
        self, clean: Tensor, noise: Tensor, times: Tensor, uniform: Tensor, *condition: Tensor
    ) -> dict[str, Tensor]:
        """Matching loss of the student's images and prediction loss of the fake on them."""
        lesson = self._lesson[0]
        stride = lesson.used[-1]
        times = stride * torch.div(times + stride - 1, stride, rounding_mode="floor")
        times = times.clamp(stride, lesson.grid)  # those of few steps
        image = self.denoised(self.noisy(clean, noise[0], times), times, *condition)
        timesteps, alpha, sigma, weight = lesson.level(uniform)
        sample = image.detach()
        noisy = (alpha * sample + sigma * noise[1]).contiguous(memory_format=lesson.memory_format)
        predicted = self._fake(noisy, timesteps, *condition).float()
        error = (predicted - lesson.target(sample, noise[1])).square().flatten(1).mean(1)
        _, real = self.taught(noisy, alpha, sigma, timesteps, *condition)
        with torch.no_grad():
            _, imagined = lesson.parts(noisy, predicted, alpha, sigma)
            scale = (sample - real).abs().flatten(1).mean(1).clamp_min(1e-2).view(-1, 1, 1, 1)
            gradient = (imagined - real) / scale
        matching = 0.5 * F.mse_loss(image, sample - gradient)
        score = (weight * error).mean()
        return {"loss": matching + self.fake_rate * score, "matching": matching, "score": score}
