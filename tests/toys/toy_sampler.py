"""A sampler: DDIM that leaves out the last steps."""

from __future__ import annotations

from sgool.diffusion.ddim import DDIM
from sgool.diffusion.moves import Move
from sgool.models.schedule import Schedule


class Hasty(DDIM):
    name = "hasty"

    def __init__(self, left_out: int = 1) -> None:
        super().__init__()
        self.left_out = left_out

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        moves = super().moves(schedule)
        return moves[: len(moves) - self.left_out]
