"""The few-step student of the emoji world's denoiser, guidance folded in.

The student has the denoiser's shape, begins as it and predicts noise, too. At the noisiest step x0 = (x - sigma eps) /
alpha enlarges the network's error by 15, and a student that predicts v (Salimans & Ho 2022) would not; but turning one
prediction into the other took longer than everything else: in a trial the error of x0 there was 1.7 after 80 steps for
v, and 0.8 after 40 steps for noise.

`experiments.emoji_world.distil` has the two ways to distil it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from experiments.emoji_world import distil
from experiments.emoji_world.captions import caption
from experiments.emoji_world.denoiser import new_scheduler
from experiments.emoji_world.distil import ConsistencyStage as ConsistencyStage
from experiments.emoji_world.distil import MatchingStage as MatchingStage
from experiments.emoji_world.scenes import Scene

#: Times of the student: 49, 99, ..., 999; "trailing" spacing takes 1, 2 or 4 of them, from the noisiest on.
GRID = 20
#: The times of four steps; 1 and 2 steps use some of them.
USED = (20, 15, 10, 5)


def new_turbo_scheduler() -> DDIMScheduler:
    """Few steps without fresh noise, at the student's times, down to no noise.

    `LCMScheduler`, which draws noise after each step, showed as many scenes rightly (README); without it an image is a
    function of its first latents alone, which is what is optimised.
    """
    config = {k: v for k, v in new_scheduler().config.items() if k in ("beta_start", "beta_end", "beta_schedule")}
    return DDIMScheduler(
        **config,
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        prediction_type="epsilon",
    )


@dataclass(frozen=True)
class Lesson(distil.Lesson):
    """The UNet as a teacher: it predicts noise, at every 50th timestep."""

    network: ClassVar[str] = "unet"
    grid: ClassVar[int] = GRID
    used: ClassVar[tuple[int, ...]] = USED
    hops: ClassVar[tuple[tuple[float, int], ...]] = ((0.0, GRID), (0.25, 10), (0.4, 5), (0.55, 2), (0.75, 1))
    memory_format: ClassVar[torch.memory_format] = torch.channels_last

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """A caption that names the background half of the time."""
        return caption(scene, rng, background=0.5).text

    @torch.no_grad()
    def condition(self, texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Prompt embeddings (B, 32, W)."""
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return (self.text_encoder(tokens).last_hidden_state.float(),)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Of the 1000 timesteps."""
        return new_scheduler().alphas_cumprod

    def signal(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Of timestep 50 k - 1 for grid time k, and 1 and 0 for 0."""
        alphas = torch.cat([torch.ones(1), self.alphas_cumprod[49::50]])[times].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()

    def timesteps(self, times: Tensor) -> Tensor:
        """50 k - 1."""
        return 50 * times - 1

    def level(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Timesteps from 20 to 979, with min-SNR weights (Hang et al. 2023, gamma = 5)."""
        timesteps = (20 + uniform * 960).long()
        alphas = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        snr = (alphas / (1 - alphas)).flatten()
        return timesteps, alphas.sqrt(), (1 - alphas).sqrt(), snr.clamp(max=5) / snr

    def predict(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, *condition: Tensor) -> Tensor:
        """The UNet's noise."""
        return network(noisy, timesteps, *condition, return_dict=False)[0]

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The noise."""
        return noise

    def parts(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The noise is what was predicted."""
        return output, (noisy - sigma * output) / alpha
