"""What searches among first latents have in common: they try candidates one after the other and keep the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.methods.base import PairModule
from sgool.methods.budget import Budget, Costs, images_that_fit
from sgool.methods.streams import checked_streams
from sgool.metrics.panel import JudgePanel
from sgool.objectives import BoundObjective, Objective
from sgool.prompts.batches import PairBatch
from sgool.prompts.seeding import pair_generator
from sgool.results.checkpoint import eight_bit, pack_image, unpack_image
from sgool.types import PairResult, PromptSeed


class Search(PairModule):
    """Samples images of each prompt and keeps the one that the objective likes best.

    The objective judges whole images, without random crops (`BoundObjective.evaluate`), as it does where an
    optimisation keeps its best update; no judge takes part. Prediction serves each batch once a candidate. Candidate 0
    is the pair's own first latents. A subclass says in `propose` which latents come next, and may look at their scores
    in `learn`.

    Args:
        chain: The denoising chain.
        objective: What to choose by.
        num_optimization_steps: Updates of the optimisation whose network calls may be spent.
        num_candidates: N; None: as many as those calls allow, and one at least.
        candidates: How many candidates that optimisation tries before its updates.
        streams: "first" latents are searched, or "all": the noises that the sampler adds on the way as well.
        judges: As for every method.
        pairs: As for every method.
        budget: The most that a pair may cost; it decides on N.

    Raises:
        SgoolError: Fewer than one update or candidate, or a budget below one image.
    """

    def __init__(
        self,
        chain: Chain,
        objective: Objective,
        num_optimization_steps: int = 50,
        num_candidates: int | None = None,
        *,
        candidates: int = 1,
        streams: str = "first",
        judges: JudgePanel | Mapping[str, Any] | None = None,
        pairs: Sequence[PromptSeed] | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(chain, judges=judges, pairs=pairs, budget=budget)
        if num_optimization_steps < 1 or (num_candidates is not None and num_candidates < 1):
            raise SgoolError(
                "`num_optimization_steps`, `num_candidates`: expected 1 or more, got "
                f"{num_optimization_steps} and {num_candidates}"
            )
        self.objective, self.streams = objective, checked_streams(streams, chain)
        if self.budget:
            self.num_rounds = images_that_fit(Costs(chain.sampling_calls, 0), self.budget, 1)
        else:
            self.num_rounds = num_candidates or self._affordable(num_optimization_steps, candidates)

    def _affordable(self, num_optimization_steps: int, candidates: int) -> int:
        one = self.chain.sampling_calls
        if not one:
            return 1
        # As `Costs.of`: what an engine keeps in memory depends on the batch, and results must not.
        calls = self.chain.with_prompts([""]).optimization_calls(None, num_optimization_steps)
        return max(1, calls // one + (candidates if candidates > 1 else 0))

    def propose(self, index: int) -> Tensor:
        """Returns the latents (S, B, C, h, w) of candidate ``index``; those of number 0 are the pairs' own."""
        raise NotImplementedError

    def learn(self, index: int, latents: Tensor, scores: Sequence[float]) -> None:
        """Takes note of a candidate's scores, one a pair; infinite where the score or the image is not finite."""

    def start(self, latents: Tensor) -> None:
        """Starts a new search for a batch with these first latents (S, B, C, h, w)."""
        self.first = latents
        self.bound: BoundObjective = self.objective.bind(self.pairs)
        self._history: list[list[dict[str, float]]] = [[] for _ in self.pairs]
        self._best: list[dict[str, Any]] = [{"selection": math.inf} for _ in self.pairs]
        self._first_images: Tensor | None = None

    def round(self, batch: PairBatch) -> None:
        """Samples and judges one candidate of each pair; after the last one, delivers the best."""
        latents = self.propose(batch.update)
        images = self.first_images(latents)
        # Salient regions are those of the image itself: evaluating keeps none.
        selection = self.bound.evaluate(images)
        pixels = eight_bit(images).cpu()
        if self._first_images is None:
            self._first_images = pixels
        scores = []
        for pair, (history, best) in enumerate(zip(self._history, self._best, strict=True)):
            value, norm = float(selection[pair]), float(latents[0, pair].norm())
            history.append({"update": batch.update, "loss": value, "selection": value, "latent_norm": norm})
            sound = math.isfinite(value) and bool(pixels[pair].isfinite().all())
            scores.append(value if sound else math.inf)
            if scores[-1] < best["selection"]:
                best |= {"selection": value, "index": batch.update}
                best |= {"latents": latents[:, pair].cpu().clone(), "image": pixels[pair].clone()}
        self.learn(batch.update, latents, scores)
        self.end_if_spent(batch)
        if batch.is_over:
            self.deliver([self._result(index) for index in range(len(self.pairs))])

    def _result(self, index: int) -> PairResult:
        assert self._first_images is not None
        latents, image, best = self.first[:, index].cpu(), self._first_images[index], self._best[index]
        chosen = best.get("image", image)
        return PairResult(
            self.pairs[index],
            initial_image=image,
            final_image=chosen,
            initial_latents=latents,
            final_latents=best.get("latents", latents),
            saliency_map=saliency_of(self, self.pairs[index], chosen),
            best_step=best.get("index", 0),
            history=self._history[index],
            error=None if "image" in best else "the objective was never finite",
            network_evaluations=self.batch_chain.calls,
        )

    def batch_state(self) -> dict[str, Any]:
        """What the search has found so far, with images as PNG, and the number of the next candidate."""
        assert self._first_images is not None and self.batch is not None
        best = [{**own, "image": pack_image(own["image"])} if "image" in own else own for own in self._best]
        first = [pack_image(image) for image in self._first_images]
        own = {"update": self.batch.update + 1, "history": self._history, "best": best, "first": first}
        return super().batch_state() | own

    def load_batch_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `batch_state`; the next candidate is the one after those it has seen."""
        super().load_batch_state(state)
        assert self.batch is not None
        self.batch.update, self._history = state["update"], state["history"]
        self._first_images = torch.stack([unpack_image(image) for image in state["first"]])
        self._best = [{**own, "image": unpack_image(own["image"])} if "image" in own else own for own in state["best"]]

    def checkpoint_settings(self) -> list[Any]:
        """All settings that the batch's results depend on."""
        return [*super().checkpoint_settings(), self.num_rounds, self.objective.checkpoint_settings(), self.budget]


def saliency_of(module: Any, pair: PromptSeed, image: Tensor) -> Tensor | None:
    """Returns the map (1, H, W) of an image (3, H, W) by the detector of a method's objective, or None without one."""
    if module.objective.saliency is None:
        return None
    seen = image[None].to(module.chain.device)
    found = module.objective.bind([pair])(seen, [pair_generator(pair.seed, "crops0")], 0).saliency_map
    return None if found is None else eight_bit(found[0]).cpu()
