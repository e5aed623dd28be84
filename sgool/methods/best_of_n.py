"""Best of N: many seeds instead of an optimisation, the control that every optimiser has to beat."""

from __future__ import annotations

from torch import Tensor

from sgool.methods.candidates import draw_candidate
from sgool.methods.search import Search


class BestOfN(Search):
    """Samples N images of each prompt and keeps the one that the objective likes best.

    Candidate 0 starts from the pair's own first latents, the others from further draws of the pair; with ``streams``
    "all" they have noises of their own too.
    """

    method = "best_of_n"

    def propose(self, index: int) -> Tensor:
        """Returns the latents (S, B, C, h, w) of a candidate: a draw that depends on no score."""
        return draw_candidate(self.first, self.pairs, index, self.num_noises)
