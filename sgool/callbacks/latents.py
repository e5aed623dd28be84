"""After the step: what is done to the latents."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks.base import UpdateCallback, noises_of, refuse_clock, tied_streams
from sgool.errors import SgoolError
from sgool.prompts.seeding import pair_generator

SCHEDULES = ("constant", "linear", "spherical")


class Perturb(UpdateCallback):
    """Mixes the same noise n ~ N(0, 1) into all streams z of a pair, outside the momentum.

    Injected noises among the streams get noise of their own.

    =============  =========================================  ==============================================
    ``schedule``   after update u of N                        reading
    =============  =========================================  ==============================================
    ``constant``   z + std n                                  DOODL
    ``linear``     z + std (1 - u / N) n                      noise that has gone when the updates end
    ``spherical``  cos(std) z + sin(std) (|z| / |n|) n        the same angle each time, on the sphere of z
    =============  =========================================  ==============================================

    ``spherical`` keeps the norm but for the cosine between z and n, which is near 0 in many dimensions. ``std`` is
    then an angle in radians, which for latents of unit variance is the same size of step.

    Args:
        std: Standard deviation per element, or the angle.
        schedule: One of the above.
    """

    order = 65

    def __init__(self, std: float, schedule: str = "constant") -> None:
        if not std >= 0:
            raise SgoolError(f"`optimization.perturb_std`: expected a number of at least 0, got {std}")
        if schedule not in SCHEDULES:
            raise SgoolError(
                f"`optimization.perturb_schedule`: expected one of {', '.join(SCHEDULES)}, got {schedule!r}"
            )
        self.std, self.schedule = std, schedule

    def check(self, module: Any) -> None:
        """Refuses a linear schedule where a clock decides how many updates there are.

        Raises:
            SgoolError: It does.
        """
        if self.schedule == "linear":
            refuse_clock(module, "optimization.perturb_schedule", self.schedule)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Adds noise to the latents, drawn from each pair's own generator of this update."""
        latents, update = pl_module.latents, pl_module.update
        share = 1 - update / pl_module.num_optimization_steps if self.schedule == "linear" else 1.0
        for index, pair in enumerate(pl_module.pairs):
            if pl_module.is_held(index, update):
                continue
            generator = pair_generator(pair.seed, "perturb", update)
            shared = len(latents) - noises_of(pl_module)
            for streams in (slice(0, shared), *(slice(k, k + 1) for k in range(shared, len(latents)))):
                noise = torch.randn(latents.shape[2:], generator=generator).to(latents)
                if self.schedule == "spherical":
                    latents[streams, index] = self._rotated(latents[streams, index], noise)
                else:
                    latents[streams, index] += share * self.std * noise

    def _rotated(self, streams: Tensor, noise: Tensor) -> Tensor:
        norms = streams.square().sum(dim=tuple(range(1, streams.ndim)), keepdim=True).sqrt()
        return math.cos(self.std) * streams + math.sin(self.std) * norms / noise.norm() * noise


class TieLatents(UpdateCallback):
    """Replaces the streams of each pair by their mean; injected noises stay as they are."""

    order = 70

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Averages the latents over the streams."""
        latents = tied_streams(pl_module.latents, pl_module)
        latents.copy_(latents.mean(dim=0, keepdim=True).expand_as(latents))


class Renormalize(UpdateCallback):
    """Rescales each stream of each pair, injected noises included, to the norm of its first draw."""

    order = 75

    def __init__(self) -> None:
        self._norm: Tensor | None = None

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Remembers the norms (S, B, 1, 1, 1) of the first latents."""
        self._norm = self._norms(pl_module.latents.detach())

    def on_candidates_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Remembers the norms of the candidates that the updates start from."""
        self._norm = self._norms(pl_module.latents.detach())

    def batch_state(self) -> dict[str, Any]:
        """Returns the norms of the first latents."""
        assert self._norm is not None
        return {"norm": self._norm.cpu()}

    def load_batch_state(self, state: dict[str, Any]) -> None:
        """Restores the norms of the first latents."""
        self._norm = state["norm"]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Rescales the latents in place."""
        assert self._norm is not None
        latents = pl_module.latents
        latents.mul_(self._norm.to(latents.device) / self._norms(latents))

    @staticmethod
    def _norms(latents: Tensor) -> Tensor:
        return latents.square().sum(dim=tuple(range(2, latents.ndim)), keepdim=True).sqrt()
