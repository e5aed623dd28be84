"""EDICT (Wallace et al. 2023, "Exact Diffusion Inversion via Coupled Transformations"), as DOODL runs it.

The paper's equations (13) and (14) with the leapfrog order of the authors' code: without it, or with the same
stream always first, images do not reproduce.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sgool.diffusion.ddim import Predict, ddim_coefficients
from sgool.diffusion.schedule import Step
from sgool.errors import SgoolError


class EDICT:
    """Two streams (x, y), two network calls a step, exactly invertible.

    Args:
        mixing_coeff: p in (0.5, 1]; 1 switches mixing off.
        leapfrog: Alternate which stream is updated first (the authors' code); else x is always first.

    Raises:
        SgoolError: ``mixing_coeff`` is out of range.
    """

    name = "edict"
    num_streams = 2

    def __init__(self, mixing_coeff: float = 0.93, leapfrog: bool = True) -> None:
        if not 0.5 < mixing_coeff <= 1:
            raise SgoolError(f"`sampler.mixing_coeff`: expected a number in (0.5, 1], got {mixing_coeff}")
        self.mixing_coeff, self.leapfrog = float(mixing_coeff), bool(leapfrog)

    def _order(self, step: Step) -> tuple[int, int]:
        return (1, 0) if self.leapfrog and step.index % 2 else (0, 1)

    def step(self, latents: Tensor, step: Step, predict: Predict) -> Tensor:
        """One step of the latent pair (2, B, C, h, w): two half-updates at the same t, then mixing."""
        pair = list(latents)
        scale, noise = ddim_coefficients(step)
        for i in self._order(step):
            pair[i] = scale * pair[i] if noise == 0 else scale * pair[i] + noise * predict(pair[1 - i], step)
        p = self.mixing_coeff
        x = p * pair[0] + (1 - p) * pair[1]
        y = (1 - p) * x + p * pair[1]
        return torch.stack([x, y])

    def inverse(self, latents: Tensor, step: Step, predict: Predict) -> Tensor:
        """The latent pair before ``step``: un-mixing, then the half-updates undone in the opposite order.

        Un-mixing amplifies the difference x - y by p^-2 a step: use float32 or float64.
        """
        x, y = latents
        p = self.mixing_coeff
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        pair = [x, y]
        scale, noise = ddim_coefficients(step)
        for i in reversed(self._order(step)):
            pair[i] = pair[i] / scale if noise == 0 else (pair[i] - noise * predict(pair[1 - i], step)) / scale
        return torch.stack(pair)

    def network_calls(self, steps: tuple[Step, ...]) -> int:
        """Network calls of one forward pass through the chain."""
        return 2 * sum(ddim_coefficients(step)[1] != 0 for step in steps)
