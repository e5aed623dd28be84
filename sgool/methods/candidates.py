"""A search among seeds before the updates: the best of N first latents, from which an optimisation goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.methods.budget import Pace
from sgool.prompts.seeding import pair_generator
from sgool.results.checkpoint import eight_bit
from sgool.types import Candidate, PromptSeed


def draw_candidate(first: Tensor, pairs: Sequence[PromptSeed], index: int, num_noises: int = 0) -> Tensor:
    """Returns candidate ``index`` of each pair: 0 is its own first latents, the others are further draws of the pair.

    Args:
        first: The pairs' own first latents (S, B, C, h, w).
        pairs: The B pairs.
        index: Number of the candidate.
        num_noises: How many of the last streams are injected noises, which get draws of their own.

    Returns:
        (S, B, C, h, w), with equal streams, but for noises, for all but candidate 0.
    """
    if index == 0:
        return first
    generators = [pair_generator(pair.seed, "best_of_n", index) for pair in pairs]
    drawn = [
        torch.stack([torch.randn(first.shape[2:], generator=own) for own in generators]).to(first)
        for _ in range(1 + num_noises)
    ]
    shared = drawn[0].expand_as(first[: len(first) - num_noises])
    return torch.cat([shared, torch.stack(drawn[1:])]) if num_noises else shared


class CandidateSearch:
    """Finds, for each pair of a batch, the candidate with the lowest selection score; one is denoised at a time.

    A candidate whose score or image is not finite is never chosen; if all are, the pair goes on with its own.

    Args:
        number: N; 1: there is nothing to search.
        first: The pairs' own first latents (S, B, C, h, w).
        share: Share of the budget's seconds after which no candidate is begun; None: as long as an update has time.
        num_noises: How many of the last streams are injected noises.
        max_updates: How many updates follow at most: seconds that they would leave are the search's, beyond its share.

    Attributes:
        tried: How many candidates were scored.
        chosen: For each pair the number of its best candidate so far.
        seconds: Wall seconds of the batch when the search ended; 0 without one.
        under_way: Whether the candidates are being tried: the first update has not been made.
    """

    def __init__(
        self,
        number: int,
        first: Tensor,
        share: float | None = None,
        num_noises: int = 0,
        max_updates: int | None = None,
    ) -> None:
        self.number, self._first = number, first.detach().clone()
        self._share, self._num_noises, self._max_updates = share, num_noises, max_updates
        self.tried, self.seconds, self.under_way = 0, 0.0, number > 1
        self.chosen = [0] * first.shape[1]
        self._lowest = [math.inf] * first.shape[1]
        self._pace = Pace()

    def run(self, module: Any) -> None:
        """Tries the candidates that are left, sets the module's latents to the best, and tells the callbacks.

        Raises:
            Interrupted: A callback was asked to end the run.
        """
        if not self.under_way:
            return
        while self.tried < self.number and not (self.tried and self._is_spent(module)):
            self._try(module)
        own = [self._drawn(module, index)[:, pair] for pair, index in enumerate(self.chosen)]
        module.latents.data.copy_(torch.stack(own, dim=1))
        self.under_way, self.seconds = False, module.seconds
        for callback in module.pair_callbacks():
            callback.on_candidates_end(module.trainer, module)

    def _try(self, module: Any) -> None:
        latents = self._drawn(module, self.tried)
        with module.trainer.precision_plugin.forward_context(), torch.no_grad():
            images = module.first_images(latents)
            scores = module.choose(images)
        pixels = eight_bit(images).cpu()
        for pair, score in enumerate(scores.tolist()):
            if math.isfinite(score) and score < self._lowest[pair] and bool(pixels[pair].isfinite().all()):
                self._lowest[pair], self.chosen[pair] = score, self.tried
        self.tried += 1
        seen = Candidate(self.tried - 1, self._total(module), latents, pixels, scores)
        for callback in module.pair_callbacks():
            callback.on_candidate(module.trainer, module, seen)

    def _drawn(self, module: Any, index: int) -> Tensor:
        return draw_candidate(self._first, module.pairs, index, self._num_noises)

    def _is_spent(self, module: Any) -> bool:
        """Whether one more candidate would exceed the seconds of the search."""
        if module.budget.seconds is None:
            return False
        one = self._pace.seconds(self.tried, module.seconds)
        return bool(module.seconds + one > self._seconds(module, one))

    def _total(self, module: Any) -> int:
        """How many candidates there will be: those of the settings, or as many as the seconds are expected to allow."""
        if module.budget.seconds is None:
            return self.number
        one = self._pace.seconds(self.tried, module.seconds)
        left = self._seconds(module, one) - module.seconds
        return min(self.number, self.tried + max(0, int(left / one))) if one else self.number

    def _seconds(self, module: Any, one: float) -> float:
        """The batch's seconds at which the search ends, where a candidate takes ``one``.

        They leave time for an update and the image after it. With a share they are that share of the budget's, or what
        the most updates leave of them.
        """
        limit = module.budget.seconds * len(module.pairs)

        def before(updates: int) -> float:
            calls = module.costs.optimization(updates)
            return float(limit - one * (calls / module.costs.image if module.costs.image else 1.0))

        if self._share is None:
            return before(1)
        left = 0.0 if self._max_updates is None else before(self._max_updates)
        return min(before(1), max(self._share * limit, left))

    def state_dict(self) -> dict[str, Any]:
        """Returns what the search has found, in plain values: candidates follow from their pairs and numbers."""
        own = {"tried": self.tried, "chosen": self.chosen, "lowest": self._lowest}
        return {**own, "seconds": self.seconds, "under_way": self.under_way}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a `state_dict`."""
        self.tried, self.chosen, self._lowest = state["tried"], list(state["chosen"]), list(state["lowest"])
        self.seconds, self.under_way = state["seconds"], state["under_way"]


def check_candidates(number: int, pairs: Sequence[PromptSeed] = (), share: float | None = None) -> None:
    """Refuses a search without candidates, or among seeds where pairs start from latents that were found for a photo.

    Args:
        number: How many candidates there are.
        pairs: The pairs.
        share: Of the budget, for the search.

    Raises:
        SgoolError: All that is wrong with it.
    """
    if number < 1:
        raise SgoolError(f"`optimization.candidates`: expected 1 or more, got {number}")
    if share is not None and not 0 < share < 1:
        raise SgoolError(f"`optimization.search_share`: expected a number between 0 and 1, got {share}")
    started = [pair.pair_id for pair in pairs if pair.start is not None and not pair.start.is_noise]
    if number > 1 and started:
        raise SgoolError(
            f"`optimization.candidates`: expected 1 where a pair starts from given latents, got {number}: {started[0]} "
            "has no other seeds to choose from"
        )
