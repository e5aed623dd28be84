"""The model's own scheduler as a sampler: its steps, read out as coefficients, become moves.

What the scheduler remembers of earlier steps, and the noises that it draws on the way, are further latents of the
state. So gradients go to the first latents and to every noise, with no engine of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from sgool.diffusion.moves import Move, Row, State, linear
from sgool.errors import SgoolError
from sgool.models.family import Family
from sgool.models.native import NativeSteps, Source, StepOptions
from sgool.models.schedule import Schedule, Spacing, Step


class Native:
    """The model's own scheduler, whichever of diffusers' it is, as long as its steps are linear.

    Images equal those of the model's pipeline: Euler, ancestral, LCM, TCD, DDIM with eta, DDPM, DPM-Solver, UniPC,
    DEIS, Heun, flow matching and others. It becomes a sampler when a chain asks for its steps (`scheduled`).

    Args:
        timesteps: Timesteps in place of the scheduler's own, as many as there are steps.
        sigmas: Noise levels in place of the scheduler's own.
        eta: Share of noise that DDIM and TCD draw anew in each step, in [0, 1].

    Raises:
        SgoolError: ``eta`` is out of range.
    """

    name = "native"
    num_streams = 1
    accepted_streams: tuple[int, ...] = (1,)
    spacing: Spacing = "ddim"
    invertible = False
    has_inverse = False
    guidable = False

    def __init__(
        self, timesteps: Sequence[float] | None = None, sigmas: Sequence[float] | None = None, eta: float = 0.0
    ) -> None:
        if not 0 <= eta <= 1:
            raise SgoolError(f"`sampler.eta`: expected a number in [0, 1], got {eta}")
        own_timesteps, own_sigmas = (None if values is None else tuple(values) for values in (timesteps, sigmas))
        self.options = StepOptions(own_timesteps, own_sigmas, float(eta))

    def scheduled(
        self, family: Family, num_inference_steps: int, height: int | None, width: int | None
    ) -> tuple[Native, Schedule]:
        """Returns the sampler of a model's steps, and these as a schedule.

        Raises:
            SgoolError: The scheduler is not linear, or does not take the options.
        """
        steps = family.native_steps(num_inference_steps, self.options, height, width)
        unknown = (math.nan,) * 4  # noise levels that no part of this sampler reads
        schedule = Schedule(tuple(Step(i, t, *unknown) for i, t in enumerate(steps.timesteps)), "native")
        return _NativeOf(self, steps), schedule

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """Raises an error: a scheduler's steps are known only to the sampler that `scheduled` returns."""
        raise SgoolError("`sampler`: native reads the steps of a model's scheduler; give it to a `Chain`")

    def begin(self, latents: Tensor) -> State:
        """Returns first latents and the noises drawn on the way (1 + K, B, C, h, w) as the sampler's state."""
        return tuple(latents)

    def finish(self, state: State) -> State:
        """Returns the image's latents from the last state."""
        return state[:1]


class _NativeOf(Native):
    """The sampler of one model's steps.

    Attributes:
        steps: The scheduler's steps.
        noises: For each noise of the state, the number of its draw after the first latents. Draws without an effect,
            such as an ancestral scheduler's last one, are no part of the state.
    """

    def __init__(self, native: Native, steps: NativeSteps) -> None:
        self.options, self.steps, self.noises = native.options, steps, steps.noises
        self.accepted_streams = (1 + len(self.noises),)

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """Returns one move for each network call, and one before them where the first latents are scaled.

        The state has what is needed later: what the network sees next, noises that have no part yet, and what the
        network saw and said before, as long as the scheduler remembers it.
        """
        rows, steps = self.steps.rows, schedule.steps
        last_use = {source: index for index, row in enumerate(rows) for source in row}
        before: list[Source] = [("seen", 0), *(("noise", number) for number in self.noises)]
        moves = []
        if self.steps.start != 1:
            moves.append(linear(_scaling(self.steps.start, len(before)), steps[0]))
        for index, row in enumerate(rows):
            output: Source = ("output", index)
            kept = [source for source in (*before, output) if last_use.get(source, -1) > index]
            matrix: list[Row] = [tuple(row.get(source, 0.0) for source in before)]
            matrix += [tuple(float(source == other) for other in before) for source in kept]
            weights = (row.get(output, 0.0), *(float(source == output) for source in kept))
            moves.append(Move(tuple(matrix), weights, 0, steps[index]))
            before = [("seen", index + 1), *kept]
        return tuple(moves)


def _scaling(first: float, size: int) -> tuple[Row, ...]:
    """Returns the matrix that scales the first of so many latents."""
    return tuple(tuple((first if k == 0 else 1.0) if k == row else 0.0 for k in range(size)) for row in range(size))
