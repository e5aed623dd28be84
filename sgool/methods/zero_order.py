"""Zero-order search (Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.methods.search import Search
from sgool.objectives import Objective
from sgool.prompts.seeding import pair_generator


def neighbour(pivot: Tensor, threshold: float, generator: torch.Generator) -> Tensor:
    """Returns noise on the sphere through ``pivot`` whose cosine with it is ``threshold``.

    z' = |z| (t u + sqrt(1 - t^2) w), where u = z / |z| and w is a random unit vector at a right angle to u.

    Args:
        pivot: (C, h, w), on the CPU.
        threshold: The cosine t, in [0, 1).
        generator: On the CPU; it draws w, in float64.

    Returns:
        (C, h, w), of the dtype of ``pivot``.
    """
    flat = pivot.double().flatten()
    unit = F.normalize(flat, dim=0)
    drawn = torch.randn(len(flat), generator=generator, dtype=torch.float64)
    across = F.normalize(drawn - (drawn @ unit) * unit, dim=0)
    turned = threshold * unit + math.sqrt(1 - threshold**2) * across
    return (flat.norm() * turned).view_as(pivot).to(pivot)


class ZeroOrder(Search):
    """Goes from the best noise so far to the best of its neighbours, round after round (Ma et al. 2025, section 3.2).

    The pivot is at first the pair's own first latents. Each round tries ``num_neighbours`` noises at one angle from
    the pivot, on its sphere; the best of them is the next pivot if it is better than the pivot. With ``streams`` "all"
    each noise turns by that angle on a sphere of its own.

    Args:
        chain: The denoising chain.
        objective: What to choose by.
        num_optimization_steps: As for `Search`.
        num_candidates: As for `Search`: all images together.
        num_neighbours: Neighbours in a round; the paper has 4.
        threshold: Cosine of the angle between a neighbour and the pivot; the authors' code has 0.95.
        candidates: As for `Search`.
        streams: As for `Search`.
        judges: As for `Search`.
        pairs: As for `Search`.
        budget: As for `Search`.

    Raises:
        SgoolError: As for `Search`; no neighbours, or a threshold outside of [0, 1).
    """

    method = "zero_order"

    def __init__(
        self,
        chain: Chain,
        objective: Objective,
        num_optimization_steps: int = 50,
        num_candidates: int | None = None,
        *,
        num_neighbours: int = 4,
        threshold: float = 0.6,
        candidates: int = 1,
        streams: str = "first",
        judges: Any = None,
        pairs: Any = None,
        budget: Any = None,
    ) -> None:
        if num_neighbours < 1 or not 0 <= threshold < 1:
            raise SgoolError(
                "`num_neighbours`, `threshold`: expected 1 or more and a number of at least 0 and below 1, got "
                f"{num_neighbours} and {threshold}"
            )
        further = {"candidates": candidates, "streams": streams, "judges": judges, "pairs": pairs, "budget": budget}
        super().__init__(chain, objective, num_optimization_steps, num_candidates, **further)
        self.num_neighbours, self.threshold = num_neighbours, threshold

    def start(self, latents: Tensor) -> None:
        """Makes a batch's first latents (S, B, C, h, w) the pivots."""
        super().start(latents)
        own = self.per_pair(latents).cpu().clone()
        #: The pivots and the best neighbours of the round under way, on the CPU (`per_pair`), and their scores.
        self._pivots, self._found = own, own.clone()
        self._lowest = [math.inf] * len(self.pairs)
        self._reached = [math.inf] * len(self.pairs)

    def propose(self, index: int) -> Tensor:
        """Returns the pairs' own latents, or a neighbour of each pivot, for all streams (S, B, C, h, w)."""
        if index == 0:
            return self.first
        drawn = []
        for pair, pivot in zip(self.pairs, self._pivots, strict=True):
            generator = pair_generator(pair.seed, "zero_order", index)
            streams = pivot if self.num_noises else pivot[None]
            turned = torch.stack([neighbour(stream, self.threshold, generator) for stream in streams])
            drawn.append(turned if self.num_noises else turned[0])
        return self.of_pairs(drawn, self.first)

    def learn(self, index: int, latents: Tensor, scores: Sequence[float]) -> None:
        """Remembers the best neighbours; after a round's last one they become the pivots where they are better."""
        own = self.per_pair(latents)
        for pair, score in enumerate(scores):
            if score < self._reached[pair]:
                self._reached[pair] = score
                self._found[pair] = own[pair].cpu()
        if index % self.num_neighbours:
            return
        for pair, score in enumerate(self._reached):
            if score < self._lowest[pair]:
                self._lowest[pair] = score
                self._pivots[pair] = self._found[pair]
        self._reached = [math.inf] * len(self.pairs)

    def batch_state(self) -> dict[str, Any]:
        """As for `Search`, with the pivots and the round under way."""
        own = {"pivots": self._pivots, "found": self._found, "lowest": self._lowest, "reached": self._reached}
        return super().batch_state() | own

    def load_batch_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `batch_state`."""
        super().load_batch_state(state)
        self._pivots, self._found = state["pivots"].clone(), state["found"].clone()
        self._lowest, self._reached = list(state["lowest"]), list(state["reached"])

    def checkpoint_settings(self) -> list[Any]:
        """All settings that the batch's results depend on."""
        return [*super().checkpoint_settings(), self.num_neighbours, self.threshold]
