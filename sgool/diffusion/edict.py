"""EDICT (Wallace et al. 2023, "Exact Diffusion Inversion via Coupled Transformations"), as DOODL runs it.

These are the paper's equations (13) and (14) with the leapfrog order of the authors' code. If the same stream always
goes first, the paper's images are not reproduced.
"""

from __future__ import annotations

from torch import Tensor

from sgool.diffusion.ddim import ddim_coefficients
from sgool.diffusion.moves import Move, Row, State, linear
from sgool.diffusion.ode import drift
from sgool.errors import SgoolError
from sgool.models.schedule import Schedule, Spacing, Step


class EDICT:
    """EDICT: two coupled streams (x, y) and two network calls a denoising step; exactly invertible.

    One step, with the DDIM coefficients ``scale`` and ``noise`` of t, x first:

        x = scale x + noise eps(y)      y = scale y + noise eps(x)      the half-updates, both at the same t
        x = p x + (1 - p) y             y = (1 - p) x + p y             mixing; the second with the new x

    Each line is undone by solving it for what it replaced, the last one first. Undoing the mixing amplifies the
    difference x - y by p^-2 a step, so invert in float32 or float64.

    Args:
        mixing_coeff: p in (0.5, 1]; 1 switches mixing off.
        leapfrog: Whether the streams take turns in going first, as in the authors' code; if not, x always goes first.

    Raises:
        SgoolError: ``mixing_coeff`` is out of range.
    """

    name = "edict"
    num_streams = 2
    accepted_streams: tuple[int, ...] = (2,)
    spacing: Spacing = "ddim"
    invertible = True
    has_inverse = True
    guidable = False

    def __init__(self, mixing_coeff: float = 0.93, leapfrog: bool = True) -> None:
        if not 0.5 < mixing_coeff <= 1:
            raise SgoolError(f"`sampler.mixing_coeff`: expected a number in (0.5, 1], got {mixing_coeff}")
        self.mixing_coeff, self.leapfrog = float(mixing_coeff), bool(leapfrog)

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """Returns three moves for each denoising step: two half-updates and the mixing, if it is not switched off."""
        moves = []
        for step in schedule.steps:
            odd = self.leapfrog and step.index % 2 == 1
            moves += [_half_update(stream, step, schedule.prediction_type) for stream in ((1, 0) if odd else (0, 1))]
            if self.mixing_coeff != 1:
                moves.append(self._mixing(step))
        return tuple(moves)

    def _mixing(self, step: Step) -> Move:
        p = self.mixing_coeff
        return linear(((p, 1 - p), ((1 - p) * p, (1 - p) ** 2 + p)), step)

    def begin(self, latents: Tensor) -> State:
        """Returns first latents (2, B, C, h, w) as the sampler's state (x, y)."""
        return latents[0], latents[1]

    def finish(self, state: State) -> State:
        """Returns the last state, whose two streams are both latents of images."""
        return state


def _half_update(stream: int, step: Step, prediction_type: str) -> Move:
    """Returns the move that changes ``stream`` by the noise that the network predicts in the other stream."""
    scale, noise = ddim_coefficients(step, prediction_type)
    eps = drift(step, prediction_type)
    own, other = scale, noise * eps.latents if noise else 0.0
    kept: Row = (0.0, 1.0) if stream == 0 else (1.0, 0.0)
    moved: Row = (own, other) if stream == 0 else (other, own)
    weight = noise * eps.output if noise else 0.0
    matrix = (moved, kept) if stream == 0 else (kept, moved)
    return Move(matrix, (weight, 0.0) if stream == 0 else (0.0, weight), 1 - stream, step)
