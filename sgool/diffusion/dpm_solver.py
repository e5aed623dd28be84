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
from sgool.models.schedule import Schedule, Spacing, Step


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
    invertible = False
    has_inverse = False
    guidable = True

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """One a step. A step that leaves the noise level as it is does nothing and is left out."""
        steps = [step for step in schedule.steps if step.has_effect]
        moves = []
        for index, step in enumerate(steps):
            ends = step is schedule.steps[-1] and (schedule.first_order_end or step.sigma_prev == 0)
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
    kept, length = step.sigma_prev / step.sigma, _length(step)
    weight = -step.alpha_prev * math.expm1(-length)
    if previous is None:
        return kept, weight, 0.0
    half = length / (2 * _length(previous))
    return kept, weight * (1 + half), -weight * half


def _length(step: Step) -> float:
    """The paper's h: by how much lambda grows."""
    return _lambda(step.alpha_prev, step.sigma_prev) - _lambda(step.alpha, step.sigma)


def _lambda(alpha: float, sigma: float) -> float:
    """The paper's lambda = log(alpha / sigma); infinite without noise."""
    return math.inf if sigma == 0 else math.log(alpha / sigma)
