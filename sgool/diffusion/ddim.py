"""DDIM with eta 0 (Song et al. 2021, eq. 12)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sgool.diffusion.schedule import Step

Predict = Callable[[Tensor, Step], Tensor]


def ddim_coefficients(step: Step) -> tuple[float, float]:
    """Factors (of the latents, of the noise) of one DDIM step.

    ========================  ==============================
    name here                 Song et al. 2021
    ========================  ==============================
    ``alpha_prod_t``          alpha_t
    ``alpha_prod_t_prev``     alpha_{t-1}
    ========================  ==============================

    x_{t-1} = sqrt(a'/a) x_t + (sqrt(1 - a') - sqrt(a'/a) sqrt(1 - a)) eps
    """
    scale = (step.alpha_prod_t_prev / step.alpha_prod_t) ** 0.5
    noise = (1 - step.alpha_prod_t_prev) ** 0.5 - scale * (1 - step.alpha_prod_t) ** 0.5
    return scale, noise


class DDIM:
    """One stream of latents, one network call a step; not exactly invertible."""

    name = "ddim"
    num_streams = 1

    def step(self, latents: Tensor, step: Step, predict: Predict) -> Tensor:
        """One step of latents (1, B, C, h, w)."""
        scale, noise = ddim_coefficients(step)
        if noise == 0:
            return scale * latents
        return scale * latents + noise * predict(latents[0], step)[None]

    def network_calls(self, steps: tuple[Step, ...]) -> int:
        """Network calls of one forward pass through the chain."""
        return sum(ddim_coefficients(step)[1] != 0 for step in steps)
