"""The few-step student of the flow transformer: it predicts the velocity, guidance folded in.

x_t = (1 - t) x0 + t noise and v = noise - x0, so x0 = x_t - t v, and nothing is divided by a small number. The
scheduler asks in 4 steps at t = 1, 0.667, 0.334 and 0.001, in 2 steps at 1 and 0.001, in 1 step at 1. At 0.001 the
latents are finished, whatever the network says: 4 steps are 3 in effect, and 2 are 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.emoji_scenes.captions import caption
from experiments.emoji_scenes.denoiser import T5_EVERY, T5_TOKENS, encode_prompts
from experiments.emoji_scenes.scenes import Scene
from experiments.emoji_world import distil

#: Grid time k is t = 0.001 + 0.999 k / 24, evenly spaced between the scheduler's last time and its first.
GRID = 24
#: The times of four steps but the last.
USED = (24, 16, 8)
_LAST = 0.001


@dataclass(frozen=True)
class FlowLesson(distil.Lesson):
    """The flow transformer as a teacher; a condition is prompt embeddings and pooled ones."""

    network: ClassVar[str] = "transformer"
    grid: ClassVar[int] = GRID
    used: ClassVar[tuple[int, ...]] = USED
    hops: ClassVar[tuple[tuple[float, int], ...]] = ((0.0, GRID), (0.25, 12), (0.4, 6), (0.55, 3), (0.75, 1))

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """A random caption."""
        return caption(scene, rng).text

    def condition(self, texts: Sequence[str]) -> tuple[Tensor, ...]:
        """As `encode_prompts`."""
        return encode_prompts(self.text_encoder, self.tokenizer, texts)

    def prepared(self, condition: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
        """With zeros in the place of T5's tokens at every so many steps, as the teacher learnt it."""
        embeds, pooled = condition
        return (F.pad(embeds, (0, 0, 0, T5_TOKENS)) if step % T5_EVERY == 0 else embeds), pooled

    def without_prompt(self, empty: tuple[Tensor, ...], condition: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """With as many zeros behind the prompt as the condition has."""
        embeds, pooled = empty
        embeds = F.pad(embeds, (0, 0, 0, condition[0].shape[1] - embeds.shape[1]))
        return embeds.expand_as(condition[0]), pooled.expand_as(condition[1])

    def signal(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t and t."""
        sigma = (_LAST + (1 - _LAST) * times.float() / GRID).view(-1, 1, 1, 1)
        sigma = torch.where((times == 0).view(-1, 1, 1, 1), 0.0, sigma)
        return 1 - sigma, sigma

    def timesteps(self, times: Tensor) -> Tensor:
        """1000 t."""
        return 1000 * self.signal(times)[1].flatten()

    def level(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Times from 0.02 to 0.98, with equal weights."""
        times = 0.02 + 0.96 * uniform
        sigma = times.view(-1, 1, 1, 1)
        return 1000 * times, 1 - sigma, sigma, torch.ones_like(times)

    def predict(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, *condition: Tensor) -> Tensor:
        """The transformer's velocity."""
        embeds, pooled = condition
        return network(noisy, embeds, pooled, timesteps, return_dict=False)[0]

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The velocity."""
        return noise - clean

    def parts(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The noise is x + (1 - t) v, and the clean latents are x - t v."""
        return noisy + alpha * output, noisy - sigma * output
