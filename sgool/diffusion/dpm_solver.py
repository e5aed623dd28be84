"""DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models").

The multistep solver of second order in the data prediction, with the timesteps and sigmas of diffusers'
``DPMSolverMultistepScheduler``: 15 to 20 steps do the work of 50 of DDIM. Not invertible.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sgool.diffusion.moves import Move, State
from sgool.diffusion.prediction import sample_from
from sgool.diffusion.schedule import Schedule, Spacing, Step


class DPMSolver:
    """State (x, x0 of the step before); one network call a step.

    Algorithm 2 of the paper, with lambda = log(alpha / sigma), h_i = lambda_i - lambda_{i-1}, r = h_{i-1} / h_i:

        D_i = (1 + 1 / (2 r)) x0_i - 1 / (2 r) x0_{i-1}
        x_i = (sigma_i / sigma_{i-1}) x_{i-1} - alpha_i (exp(-h_i) - 1) D_i

    The first step has no predecessor and takes D = x0; so does the last one where the schedule says so, as it must
    where it ends without noise.
    """

    name = "dpm_solver"
    num_streams = 1
    accepted_streams: tuple[int, ...] = (1,)
    spacing: Spacing = "dpm"

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """One a step. A step that leaves the noise level as it is does nothing and is left out."""
        steps = [step for step in schedule.steps if step.alpha_prod_t != step.alpha_prod_t_prev]
        moves = []
        for index, step in enumerate(steps):
            ends = step is schedule.steps[-1] and (schedule.first_order_end or step.alpha_prod_t_prev >= 1)
            first_order = index == 0 or ends
            kept, now, before = _coefficients(None if first_order else steps[index - 1], step)
            clean = sample_from(step, schedule.prediction_type)
            matrix = ((kept + now * clean.latents, before), (clean.latents, 0.0))
            moves.append(Move(matrix, (now * clean.output, clean.output), 0, step))
        return tuple(moves)

    def begin(self, latents: Tensor) -> State:
        """The first latents and, in place of the step before, zeros that no one reads."""
        return latents[0], torch.zeros_like(latents[0])

    def finish(self, state: State) -> State:
        """The latents."""
        return state[:1]


def _coefficients(previous: Step | None, step: Step) -> tuple[float, float, float]:
    """Weights of x, of x0 and of the x0 of the step before."""
    sigma, sigma_end = (1 - step.alpha_prod_t) ** 0.5, (1 - step.alpha_prod_t_prev) ** 0.5
    length = _log_snr(step.alpha_prod_t_prev) - _log_snr(step.alpha_prod_t)
    weight = -(step.alpha_prod_t_prev**0.5) * math.expm1(-length)
    if previous is None:
        return sigma_end / sigma, weight, 0.0
    half = length / (2 * (_log_snr(previous.alpha_prod_t_prev) - _log_snr(previous.alpha_prod_t)))
    return sigma_end / sigma, weight * (1 + half), -weight * half


def _log_snr(alpha_prod: float) -> float:
    """The paper's lambda = log(alpha / sigma); infinite without noise."""
    return math.inf if alpha_prod >= 1 else 0.5 * math.log(alpha_prod / (1 - alpha_prod))
