"""Exactly invertible samplers with one network call a step, which remember the latents before the current ones.

Both are explicit two-step rules, x_{i-1} = A x_{i+1} + B x_i + C eps(x_i) with i falling to 0. So
x_{i+1} = (x_{i-1} - B x_i - C eps(x_i)) / A takes a step back exactly. The first step, which has none before it, is
that of DDIM.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

from torch import Tensor

from sgool.diffusion.ddim import ddim_coefficients
from sgool.diffusion.moves import Move, State
from sgool.diffusion.ode import drift, length, scales
from sgool.errors import SgoolError
from sgool.models.schedule import Schedule, Spacing, Step


class TwoStep(ABC):
    """A sampler whose state is (x_i, x_{i+1}): the current latents and the noisier ones before them."""

    name: str
    num_streams = 1
    accepted_streams: tuple[int, ...] = (1, 2)
    spacing: Spacing = "ddim"
    invertible = True
    has_inverse = True
    guidable = False

    @abstractmethod
    def coefficients(self, previous: Step, step: Step, prediction_type: str) -> tuple[float, float, float]:
        """Returns A, B and C of ``step``, where ``previous`` is the step before it; C is the drift's weight."""

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """Returns one move for each denoising step; steps that do not change the noise level are left out.

        Such a step of O-BELM does nothing, and BDIA's correction of the step before is not worth a network call.
        """
        steps = [step for step in schedule.steps if step.has_effect]
        moves = [_first(step, schedule.prediction_type) for step in steps[:1]]
        for previous, step in pairwise(steps):
            older, current, noise = self.coefficients(previous, step, schedule.prediction_type)
            eps = drift(step, schedule.prediction_type)
            matrix = ((current + noise * eps.latents, older), (1.0, 0.0))
            moves.append(Move(matrix, (noise * eps.output, 0.0), 0, step))
        return tuple(moves)

    def begin(self, latents: Tensor) -> State:
        """Returns the first state: first latents (1, B, C, h, w) taken twice, or an inverted state (2, B, C, h, w)."""
        return latents[0], latents[-1]

    def finish(self, state: State) -> State:
        """Returns the current latents of the last state, which are the image's."""
        return state[:1]


def _first(step: Step, prediction_type: str) -> Move:
    """Returns DDIM's step for the first of two equal latents.

    The noise is predicted from the second one, which does not change: so the step is invertible, as in EDICT.
    """
    scale, noise = ddim_coefficients(step, prediction_type)
    eps = drift(step, prediction_type)
    return Move(((scale, noise * eps.latents), (0.0, 1.0)), (noise * eps.output, 0.0), 1, step)


class BDIA(TwoStep):
    """BDIA-DDIM (Zhang et al. 2023, "Exact Diffusion Inversion via Bi-directional Integration Approximation").

    With DDIM's step x_{i-1} = a_i x_i + b_i eps, and the same step backwards, x_{i+1} = (x_i - b_{i+1} eps) / a_{i+1}:

        x_{i-1} = gamma (x_{i+1} - (x_i - b_{i+1} eps(x_i)) / a_{i+1}) + a_i x_i + b_i eps(x_i)

    Args:
        gamma: Weight of the integration backwards in time, in (0, 1]; each step of an inversion amplifies rounding
            errors by 1 / gamma.

    Raises:
        SgoolError: ``gamma`` is out of range.
    """

    name = "bdia"

    def __init__(self, gamma: float = 1.0) -> None:
        if not 0 < gamma <= 1:
            raise SgoolError(f"`sampler.gamma`: expected a number in (0, 1], got {gamma}")
        self.gamma = float(gamma)

    def coefficients(self, previous: Step, step: Step, prediction_type: str) -> tuple[float, float, float]:
        """Returns A, B and C, computed from DDIM's coefficients of both steps."""
        (before, before_noise), (scale, noise) = (ddim_coefficients(at, prediction_type) for at in (previous, step))
        return self.gamma, scale - self.gamma / before, noise + self.gamma * before_noise / before


class BELM(TwoStep):
    """O-BELM (Wang et al. 2024, "BELM: Bidirectional Explicit Linear Multi-step Sampler", two steps, optimal).

    In z = x / alpha and s = sigma / alpha, where sampling is dz = eps ds, with h_i = s_i - s_{i-1} (for a flow in its
    own coordinates, `sgool.diffusion.ode`):

        z_{i-1} = (h_i / h_{i+1})^2 z_{i+1} + (1 - (h_i / h_{i+1})^2) z_i - h_i (h_i + h_{i+1}) / h_{i+1} eps(z_i)

    Of all rules that are explicit in both directions, this has the least local error (third order in h). Where steps
    shrink, as those of Stable Diffusion do, it damps errors while sampling and amplifies them as much in inversion.
    """

    name = "belm"

    def coefficients(self, previous: Step, step: Step, prediction_type: str) -> tuple[float, float, float]:
        """Returns A, B and C of the rule in x itself, not in z."""
        now, before = (length(at, prediction_type) for at in (step, previous))
        (begin, end), (oldest, _) = (scales(at, prediction_type) for at in (step, previous))
        ratio = (now / before) ** 2
        older = ratio * end / oldest
        current = (1 - ratio) * end / begin
        return older, current, -now * (now + before) / before * end
