"""An engine: plain autograd that counts how often it runs."""

from __future__ import annotations

from collections.abc import Sequence

from sgool.diffusion.engines import Direct
from sgool.diffusion.moves import Move, State
from sgool.diffusion.network import GuidedModel
from sgool.errors import SgoolError


class Counting(Direct):
    name = "counting"

    def __init__(self, most: int) -> None:
        self.most, self.runs = most, 0

    def run(self, state: State, moves: Sequence[Move], model: GuidedModel) -> State:
        self.runs += 1
        if self.runs > self.most:
            raise SgoolError(f"`engine`: expected at most {self.most} runs, this is one more")
        return super().run(state, moves, model)
