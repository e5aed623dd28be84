"""The interface of a sampler: what a chain has to know of it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sgool.diffusion.moves import Move, State
from sgool.models.schedule import Schedule, Spacing


class Sampler(Protocol):
    """A rule that turns a schedule into moves of a state of K latents.

    Attributes:
        name: Name of the sampler in the configuration.
        num_streams: S, how many latents a chain starts from and ends with (2 for EDICT's x and y).
        accepted_streams: The numbers of latents it can start from: S, and K where `begin` takes an inverted state.
        spacing: The rule for the timesteps, an argument of `sgool.models.family.Family.schedule`.
        invertible: Whether every move can be undone exactly. The first state is then found by undoing all of them. If
            K = S, every stream of the last state is taken to be the image's latents. If K = 2 and S = 1, the second
            latents of a state must be those of one step before.
        has_inverse: Whether the sampler can be inverted at all. If not exactly, its state must be one tensor, and each
            move is undone with the network's output at a guess.
        guidable: Whether classifier guidance can change its steps. This needs S = 1, and each move must start from the
            noise at its own timestep.
    """

    name: str
    num_streams: int
    accepted_streams: tuple[int, ...]
    spacing: Spacing
    invertible: bool
    has_inverse: bool
    guidable: bool

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """Returns all moves of a schedule, in order."""
        ...

    def begin(self, latents: Tensor) -> State:
        """Returns the first state, made of first latents (S, B, C, h, w)."""
        ...

    def finish(self, state: State) -> State:
        """Returns the S latents of images from the last state."""
        ...
