"""What a chain has to know of a sampler."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sgool.diffusion.moves import Move, State
from sgool.models.schedule import Schedule, Spacing


class Sampler(Protocol):
    """A rule that turns a schedule into moves of a state of K latents.

    Attributes:
        name: In the configuration.
        num_streams: S, how many latents a chain starts from and ends with (2: EDICT's x and y).
        accepted_streams: The numbers of latents it can start from: S, and K where `begin` takes an inverted state.
        spacing: Whose rules space the timesteps, an argument of `sgool.models.family.Family.schedule`.
        invertible: Whether every move can be undone exactly. The state is then found by undoing all of them. Where
            K = S, one image's latents stand for all of the last state; where K = 2 and S = 1, the second latents of
            the state are those of one step before the first.
        has_inverse: Whether there is a way back at all. If it is not exact, each move of its one latent is undone with
            the network's output at a guess.
        guidable: Whether classifier guidance can change its steps: S = 1, and each move starts from the noise at its
            own timestep.
    """

    name: str
    num_streams: int
    accepted_streams: tuple[int, ...]
    spacing: Spacing
    invertible: bool
    has_inverse: bool
    guidable: bool

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """All moves, in order."""
        ...

    def begin(self, latents: Tensor) -> State:
        """The state that latents (S, B, C, h, w) start from."""
        ...

    def finish(self, state: State) -> State:
        """The latents of images, of a last state."""
        ...
