"""A genetic search over first latents, after Jajal et al. 2025 (arXiv 2506.00299)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.methods.candidates import draw_candidate
from sgool.methods.search import Search
from sgool.objectives import Objective
from sgool.prompts.seeding import pair_generator


def child(population: Tensor, scores: Sequence[float], mutation: float, generator: torch.Generator) -> Tensor:
    """Returns a child of two members of a population, each the better of two that are drawn at random.

    Each element comes from one of the parents with equal chance. Then the child z becomes sqrt(1 - s^2) z + s n with
    new noise n; s is the strength of the mutation. Both keep the law of the noise, so that children are first latents
    that the model knows.

    Args:
        population: (P, C, h, w), or (P, 1 + K, C, h, w) with K noises, on the CPU.
        scores: Their P scores; lower is better.
        mutation: s, in [0, 1].
        generator: On the CPU; it draws the parents, what comes from which of them, and the noise.

    Returns:
        (C, h, w) or (1 + K, C, h, w), of the dtype of ``population``.
    """
    drawn = torch.randint(len(population), (2, 2), generator=generator).tolist()
    mother, father = (population[min(pair, key=lambda index: scores[index])] for pair in drawn)
    mask = torch.rand(mother.shape, generator=generator) < 0.5
    noise = torch.randn(mother.shape, generator=generator).to(mother)
    return math.sqrt(1 - mutation**2) * torch.where(mask, mother, father) + mutation * noise


class Evolution(Search):
    """Lets a population of first latents have children, generation after generation, and keeps the best of all.

    The first generation is that of `BestOfN`: the pair's own first latents and further draws. Each later one has the
    ``num_elites`` best of the one before, which are not denoised again, and children (`child`) in the other places. It
    is the plain form of the paper's genetic algorithms, which use CoSyNE's permutations and additive mutations.

    Args:
        chain: The denoising chain.
        objective: What to choose by.
        num_optimization_steps: As for `Search`.
        num_candidates: As for `Search`: all images together.
        population: Members of a generation.
        num_elites: How many of them the next one has as well.
        mutation: Strength of the mutation, in [0, 1].
        candidates, streams, judges, pairs, budget: As for `Search`.

    Raises:
        SgoolError: As for `Search`; a population below 2, elites that are not fewer, or a mutation outside of [0, 1].
    """

    method = "evolution"

    def __init__(
        self,
        chain: Chain,
        objective: Objective,
        num_optimization_steps: int = 50,
        num_candidates: int | None = None,
        *,
        population: int = 8,
        num_elites: int = 2,
        mutation: float = 0.3,
        candidates: int = 1,
        streams: str = "first",
        judges: Any = None,
        pairs: Any = None,
        budget: Any = None,
    ) -> None:
        if not (0 <= num_elites < population >= 2 and 0 <= mutation <= 1):
            raise SgoolError(
                "`population`, `num_elites`, `mutation`: expected 2 or more members, fewer elites, and a number of at "
                f"least 0 and at most 1, got {population}, {num_elites} and {mutation}"
            )
        further = {"candidates": candidates, "streams": streams, "judges": judges, "pairs": pairs, "budget": budget}
        super().__init__(chain, objective, num_optimization_steps, num_candidates, **further)
        self.population, self.num_elites, self.mutation = population, num_elites, mutation

    def start(self, latents: Tensor) -> None:
        """Begins with no generation."""
        super().start(latents)
        #: For each pair the members (latents on the CPU, score) of the last whole generation, and of the next one.
        self._parents: list[list[tuple[Tensor, float]]] = [[] for _ in self.pairs]
        self._members: list[list[tuple[Tensor, float]]] = [[] for _ in self.pairs]

    def propose(self, index: int) -> Tensor:
        """Returns a member of the first generation, or a child of the last one, for all streams (S, B, C, h, w)."""
        if index < self.population:
            return draw_candidate(self.first, self.pairs, index, self.num_noises)
        drawn = []
        for pair, parents in zip(self.pairs, self._parents, strict=True):
            members, scores = zip(*parents, strict=True)
            generator = pair_generator(pair.seed, "evolution", index)
            drawn.append(child(torch.stack(members), scores, self.mutation, generator))
        return self.of_pairs(drawn, self.first)

    def learn(self, index: int, latents: Tensor, scores: Sequence[float]) -> None:
        """Adds the members; a generation that is whole becomes that of the parents, and leaves its elites."""
        own = self.per_pair(latents)
        for pair, score in enumerate(scores):
            self._members[pair].append((own[pair].cpu().clone(), score))
            if len(self._members[pair]) == self.population:
                self._parents[pair] = self._members[pair]
                self._members[pair] = sorted(self._parents[pair], key=lambda member: member[1])[: self.num_elites]

    def batch_state(self) -> dict[str, Any]:
        """As for `Search`, with both generations."""
        return super().batch_state() | {"parents": self._parents, "members": self._members}

    def load_batch_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `batch_state`."""
        super().load_batch_state(state)
        self._parents = [[(latents, score) for latents, score in own] for own in state["parents"]]
        self._members = [[(latents, score) for latents, score in own] for own in state["members"]]

    def checkpoint_settings(self) -> list[Any]:
        """All settings that the batch's results depend on."""
        return [*super().checkpoint_settings(), self.population, self.num_elites, self.mutation]
