"""Particles of several pairs: their latents, what is known of their ways, and their resampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.methods.resampling import RESAMPLERS, effective_share, normalised


class Particles:
    """k particles of each of B pairs; pairs are resampled each by itself.

    Args:
        latents: (k, B, C, h, w).
        potential: "max", "difference" or "sum"; see `sgool.methods.fk_steering.FKSteering`.
        scale: Factor on the rewards in the exponent.
        resampling: A name of `sgool.methods.resampling.RESAMPLERS`.
        ess_threshold: Resample where the effective share of the particles is at most this.

    Attributes:
        latents: (k, B, C, h, w).
        ancestors: For each pair the first latents, by their numbers, that each of its particles goes back to.
    """

    def __init__(self, latents: Tensor, potential: str, scale: float, resampling: str, ess_threshold: float) -> None:
        number, pairs = latents.shape[:2]
        self.latents, self._potential, self._scale = latents, potential, scale
        self._resampler, self._ess_threshold = RESAMPLERS[resampling], ess_threshold
        self.ancestors = [list(range(number)) for _ in range(pairs)]
        #: For each pair and particle what its way says so far: the highest, last or summed reward.
        self._known: list[list[float | None]] = [[None] * number for _ in range(pairs)]
        self._log_weights = [[0.0] * number for _ in range(pairs)]

    def resample(
        self, scores: Sequence[Sequence[float]], generators: Sequence[torch.Generator]
    ) -> tuple[list[dict[str, float]], Tensor]:
        """Weighs the particles by their scores, and resamples the pairs whose weights differ enough.

        Args:
            scores: k times B scores; lower is better, and infinity excludes a particle.
            generators: One a pair.

        Returns:
            For each pair "loss" (mean score), "selection" (lowest score) and "ess" (effective share of the particles);
            and (k, B), which particle takes each place.
        """
        rows, columns = [], []
        for pair, generator in enumerate(generators):
            own = [float(values[pair]) for values in scores]
            for particle, score in enumerate(own):
                gain = self._scale * self._gain(pair, particle, -score) if math.isfinite(score) else -math.inf
                self._log_weights[pair][particle] += gain
            if all(weight == -math.inf for weight in self._log_weights[pair]):
                # None can be told from another; what they showed so far must not count against later scores.
                self._log_weights[pair] = [0.0] * len(own)
            weights = normalised(self._log_weights[pair])
            share = effective_share(weights)
            taken = torch.arange(len(own))
            if share <= self._ess_threshold + 1e-12:
                taken = self._resampler(weights, generator)
                self._take(pair, taken.tolist())
            columns.append(taken)
            finite = [score for score in own if math.isfinite(score)] or [math.nan]
            rows.append({"loss": sum(finite) / len(finite), "selection": min(finite), "ess": share})
        return rows, torch.stack(columns, dim=1)

    def of(self, values: Tensor, taken: Tensor) -> Tensor:
        """Returns values (k, B, ...) of the particles that took each place, as `resample` returned them."""
        columns = torch.arange(values.shape[1], device=values.device)
        return values[taken.to(values.device), columns]

    def _gain(self, pair: int, particle: int, reward: float) -> float:
        """The potential's exponent of a reward without its factor; it remembers the reward."""
        known = self._known[pair][particle]
        if self._potential == "difference":
            self._known[pair][particle] = reward
            return reward - (known or 0.0)
        if known is not None:
            reward = max(known, reward) if self._potential == "max" else known + reward
        self._known[pair][particle] = reward
        return reward

    def _take(self, pair: int, taken: Sequence[int]) -> None:
        self.ancestors[pair] = [self.ancestors[pair][particle] for particle in taken]
        self._known[pair] = [self._known[pair][particle] for particle in taken]
        self._log_weights[pair] = [0.0] * len(taken)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that differs from new particles."""
        own = {"ancestors": self.ancestors, "known": self._known, "log_weights": self._log_weights}
        return {"latents": self.latents.cpu(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a `state_dict`."""
        self.latents = state["latents"].to(self.latents)
        self.ancestors, self._known, self._log_weights = state["ancestors"], state["known"], state["log_weights"]
