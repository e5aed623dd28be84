"""DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models").

The multistep solver of second order in the data prediction, with the timesteps and sigmas of diffusers'
``DPMSolverMultistepScheduler``. With 15 to 20 steps its images are as good as those of DDIM with 50. It cannot be
inverted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sgool.diffusion.moves import Move, State
from sgool.diffusion.prediction import sample_from
from sgool.models.schedule import Schedule, Spacing, Step


class DPMSolver:
    """DPM-Solver++(2M): one stream of latents and one network call a denoising step.

    The state is (x, x0 of the step before). The rule is Algorithm 2 of the paper, with lambda = log(alpha / sigma),
    h_i = lambda_i - lambda_{i-1}, r = h_{i-1} / h_i:

        D_i = (1 + 1 / (2 r)) x0_i - 1 / (2 r) x0_{i-1}
        x_i = (sigma_i / sigma_{i-1}) x_{i-1} - alpha_i (exp(-h_i) - 1) D_i

    The first step has no predecessor and takes D = x0. So does the last one where the schedule says so
    (``first_order_end``) and where it ends without noise.
    """

    name = "dpm_solver"
    num_streams = 1
    accepted_streams: tuple[int, ...] = (1,)
    spacing: Spacing = "dpm"
    invertible = False
    has_inverse = False
    guidable = True

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """Returns one move for each denoising step; steps that do not change the noise level are left out."""
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
        """Returns the first state: the first latents, and zeros in place of a step before, which nothing reads."""
        return latents[0], torch.zeros_like(latents[0])

    def finish(self, state: State) -> State:
        """Returns the image's latents from the last state."""
        return state[:1]


def _coefficients(previous: Step | None, step: Step) -> tuple[float, float, float]:
    """Returns the weights of x, of x0 and of the x0 of the step before."""
    kept, length = step.sigma_prev / step.sigma, _length(step)
    weight = -step.alpha_prev * math.expm1(-length)
    if previous is None:
        return kept, weight, 0.0
    half = length / (2 * _length(previous))
    return kept, weight * (1 + half), -weight * half


def _length(step: Step) -> float:
    """Returns the paper's h, by how much lambda grows in a step."""
    return _lambda(step.alpha_prev, step.sigma_prev) - _lambda(step.alpha, step.sigma)


def _lambda(alpha: float, sigma: float) -> float:
    """Returns the paper's lambda = log(alpha / sigma), infinite without noise, and minus that in pure noise."""
    if sigma == 0 or alpha == 0:
        return math.inf if sigma == 0 else -math.inf
    return math.log(alpha / sigma)
