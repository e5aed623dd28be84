"""The few-step student of the emoji world's denoiser: two ways to distil it, guidance folded in.

The student has the denoiser's shape, begins as it and predicts noise, too. At the noisiest step x0 = (x - sigma eps) /
alpha enlarges the network's error by 15, and a student that predicts v (Salimans & Ho 2022) would not; but turning one
prediction into the other took longer than everything else: in a trial the error of x0 there was 1.7 after 80 steps for
v, and 0.8 after 40 steps for noise.

`ConsistencyStage` teaches it to name, at each of `GRID` times, the end of the guided teacher's trajectory;
`MatchingStage` then moves its images towards the teacher's distribution.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import LCMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.emoji_world.captions import caption
from experiments.emoji_world.common import Stage
from experiments.emoji_world.denoiser import new_scheduler
from experiments.emoji_world.scenes import Scene

#: Times of the student: 49, 99, ..., 999; `LCMScheduler` chooses 1, 2 or 4 of them, from the noisiest on.
GRID = 20
#: The times of four steps; 1 and 2 steps use some of them.
USED = (20, 15, 10, 5)


def new_turbo_scheduler() -> LCMScheduler:
    """Few steps, each from x0 and fresh noise, at the student's times."""
    config = {k: v for k, v in new_scheduler().config.items() if k in ("beta_start", "beta_end", "beta_schedule")}
    return LCMScheduler(
        **config,
        num_train_timesteps=1000,
        original_inference_steps=GRID,
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="epsilon",
    )


@dataclass(frozen=True)
class Lesson:
    """What a student learns from.

    Attributes:
        scenes: Training scenes, for captions.
        latents: Their latents (N, 4, 16, 16) in float16.
        teacher: The denoiser, frozen.
        text_encoder: Frozen.
        tokenizer: The text encoder's.
        guidance_scale: Guidance of the teacher that the student has without asking twice.
    """

    scenes: list[Scene]
    latents: Tensor
    teacher: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    guidance_scale: float = 4.0


class StudentStage(Stage):
    """A student, its teacher and their batches; `ConsistencyStage` and `MatchingStage` have the losses."""

    def __init__(self, lesson: Lesson, *, batch_size: int = 32, compile: bool = True, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.unet = copy.deepcopy(lesson.teacher).requires_grad_(True).train()
        self.unet.to(memory_format=torch.channels_last)
        self._lesson, self.batch_size = (lesson,), batch_size  # in a tuple: its networks are not this module's
        alphas = torch.cat([torch.ones(1), new_scheduler().alphas_cumprod[49::50]])
        self.register_buffer("alphas", alphas.float(), persistent=False)  # of grid times 0 (clean) to `GRID`
        self._student = torch.compile(self._predict) if compile else self._predict
        tokens = lesson.tokenizer([""], padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            self.register_buffer("empty", lesson.text_encoder(tokens).last_hidden_state.float(), persistent=False)

    def batch(self, rng: np.random.Generator) -> tuple:
        """Clean latents, two noises (2, B, 4, 16, 16), grid times (B,), uniform numbers (B,) and prompt embeddings.

        Half of the times are those that sampling in four steps uses.
        """
        lesson = self._lesson[0]
        index = rng.integers(len(lesson.scenes), size=self.batch_size)
        texts = [caption(lesson.scenes[i], rng, background=0.5).text for i in index]
        tokens = lesson.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            prompt_embeds = lesson.text_encoder(tokens).last_hidden_state.float()
        clean = lesson.latents[torch.from_numpy(index)].float()
        noise = torch.from_numpy(rng.standard_normal((2, *clean.shape), dtype=np.float32))
        times = np.where(
            rng.random(self.batch_size) < 0.5,
            np.asarray(USED)[rng.integers(len(USED), size=self.batch_size)],
            rng.integers(1, GRID + 1, self.batch_size),
        )
        uniform = torch.from_numpy(rng.random(self.batch_size, dtype=np.float32))
        return clean, noise, torch.from_numpy(times), uniform, prompt_embeds

    def noisy(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Latents at grid times; at the noisiest nothing but noise, as in sampling."""
        alpha, sigma = self._signal(times)
        noisy = torch.where((times == GRID).view(-1, 1, 1, 1), noise, alpha * clean + sigma * noise)
        return noisy.contiguous(memory_format=torch.channels_last)

    def denoised(
        self, noisy: Tensor, times: Tensor, prompt_embeds: Tensor, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """The student's x0; ``network`` instead of the compiled one (of which each mode is compiled for minutes)."""
        alpha, sigma = self._signal(times)
        return (noisy - sigma * (network or self._student)(noisy, 50 * times - 1, prompt_embeds).float()) / alpha

    @torch.no_grad()
    def taught(self, noisy: Tensor, alphas: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """The guided teacher's noise and x0."""
        lesson = self._lesson[0]
        both = torch.cat([self.empty.expand_as(prompt_embeds), prompt_embeds])
        output = lesson.teacher(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), both, return_dict=False)[0].float()
        free, bound = output.chunk(2)
        noise = free + lesson.guidance_scale * (bound - free)
        alphas = alphas.view(-1, 1, 1, 1)
        return noise, (noisy - (1 - alphas).sqrt() * noise) / alphas.sqrt()

    def _predict(self, noisy: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        return self.unet(noisy, timesteps, prompt_embeds, return_dict=False)[0]

    def _signal(self, times: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self.alphas[times].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()


class ConsistencyStage(StudentStage):
    """Consistency distillation (Song et al. 2023; in latents, with guidance: Luo et al. 2023, LCM) with falling hops.

    The teacher makes one DDIM step down the grid, and the student must say of both ends the same x0. At first that
    step goes to x0 itself, which folds the guidance in; then it is halved again and again (after the schedule of Geng
    et al. 2024, "Consistency models made easy").
    """

    #: Share of the steps from which on a hop has this many grid times.
    HOPS = ((0.0, GRID), (0.25, 10), (0.4, 5), (0.55, 2), (0.75, 1))

    def hop(self) -> int:
        """Grid times of the teacher's step, at this point of training."""
        return [hop for share, hop in self.HOPS if self.step >= share * self.max_steps][-1]

    def loss(  # type: ignore[override]
        self, clean: Tensor, noise: Tensor, times: Tensor, uniform: Tensor, prompt_embeds: Tensor
    ) -> dict[str, Tensor]:
        """Pseudo-Huber distance between the student's x0 and that of the trajectory's next point."""
        noisy = self.noisy(clean, noise[0], times)
        lower = (times - self.hop()).clamp_min(0)
        eps, x0 = self.taught(noisy, self.alphas[times], 50 * times - 1, prompt_embeds)
        alpha, sigma = self._signal(lower)
        target = x0
        if bool((lower > 0).any()):
            with torch.no_grad():
                moved = (alpha * x0 + sigma * eps).contiguous(memory_format=torch.channels_last)
                named = self.denoised(moved, lower.clamp_min(1), prompt_embeds, self._predict)
            target = torch.where((lower > 0).view(-1, 1, 1, 1), named, x0)
        error = (self.denoised(noisy, times, prompt_embeds) - target).square().flatten(1).mean(1)
        values = {"loss": ((error + 1e-4).sqrt() - 1e-2).mean(), "mse": error.mean()}
        first = times == GRID
        return values | ({"mse_first": error[first].mean()} if bool(first.any()) else {})


class MatchingStage(StudentStage):
    """Distribution matching distillation (Yin et al. 2024, DMD and DMD2) with one optimiser for both networks.

    ``fake`` learns the scores of the student's images while the student moves them by the difference of the guided
    teacher's and the fake's x0.
    """

    def __init__(self, lesson: Lesson, *, fake_rate: float = 1.0, compile: bool = True, **kwargs: object) -> None:
        super().__init__(lesson, compile=compile, **kwargs)  # type: ignore[arg-type]
        self.fake = copy.deepcopy(lesson.teacher).requires_grad_(True).train().to(memory_format=torch.channels_last)
        self.register_buffer("alphas_cumprod", new_scheduler().alphas_cumprod, persistent=False)
        self.fake_rate = fake_rate
        self._fake = torch.compile(self._predict_fake) if compile else self._predict_fake

    def _predict_fake(self, noisy: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        return self.fake(noisy, timesteps, prompt_embeds, return_dict=False)[0]

    def loss(  # type: ignore[override]
        self, clean: Tensor, noise: Tensor, times: Tensor, uniform: Tensor, prompt_embeds: Tensor
    ) -> dict[str, Tensor]:
        """Matching loss of the student's images and noise prediction loss of the fake on them."""
        times = (5 * torch.div(times + 4, 5, rounding_mode="floor")).clamp(5, GRID)  # of four steps
        image = self.denoised(self.noisy(clean, noise[0], times), times, prompt_embeds)
        timesteps = (20 + uniform * 960).long()
        alphas = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        sample = image.detach()
        noisy = (alphas.sqrt() * sample + (1 - alphas).sqrt() * noise[1]).contiguous(memory_format=torch.channels_last)
        predicted = self._fake(noisy, timesteps, prompt_embeds).float()
        error = (predicted - noise[1]).square().flatten(1).mean(1)
        snr = (alphas / (1 - alphas)).flatten()
        _, real = self.taught(noisy, alphas.flatten(), timesteps, prompt_embeds)
        with torch.no_grad():
            imagined = (noisy - (1 - alphas).sqrt() * predicted) / alphas.sqrt()
            scale = (sample - real).abs().flatten(1).mean(1).clamp_min(1e-2).view(-1, 1, 1, 1)
            gradient = (imagined - real) / scale
        matching = 0.5 * F.mse_loss(image, sample - gradient)
        score = (snr.clamp(max=5) / snr * error).mean()
        return {"loss": matching + self.fake_rate * score, "matching": matching, "score": score}
