"""Best of N: many seeds instead of an optimisation, the control that every optimiser has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.errors import Interrupted
from sgool.methods.base import FitSettings, PairResult, deciding
from sgool.methods.latent_pairs import LatentPairModule
from sgool.methods.trainer import autocast_like
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import Objective
from sgool.prompts.seeding import pair_generator
from sgool.results.checkpoint import (
    ORIGIN,
    eight_bit,
    origin,
    pack_image,
    read_checkpoint,
    unpack_image,
    write_checkpoint,
)
from sgool.types import PromptSeed


class BestOfN:
    """Samples N images of each prompt and keeps the one that the objective likes best.

    Candidate 0 starts from the pair's own first latents, the others from further draws of the pair. The objective
    judges whole images, without random crops (`BoundObjective.evaluate`), as it does where an optimisation keeps its
    best update; no judge takes part.

    Args:
        name: Of the method, as in the run folder.
        models: Frozen diffusion components.
        objective: What to choose by.
        num_optimization_steps: Updates of the optimisation whose network calls may be spent.
        num_candidates: N; None: as many as those calls allow, and one at least.
    """

    def __init__(
        self,
        name: str,
        models: StableDiffusion,
        objective: Objective,
        num_optimization_steps: int,
        num_candidates: int | None = None,
    ) -> None:
        self.name = name
        self._models, self._objective = models, objective
        self._updates, self._candidates = num_optimization_steps, num_candidates

    def run(self, pairs: Sequence[PromptSeed], settings: FitSettings) -> list[PairResult]:
        """The candidates one after the other, each for all pairs of the batch at once, or those that are left.

        Raises:
            Interrupted: It was asked to stop; the candidate under way is judged and the checkpoint written.
        """
        # Only the first stream's image is looked at, whatever an optimisation decodes.
        module = LatentPairModule(
            self._models, pairs, self._objective, **{**settings.module, "decode_first_only": True}
        )
        with torch.no_grad(), autocast_like(settings.trainer, module.latents.device):
            number = self._candidates or self._affordable(module)
            search = _Search(module)
            own = self._origin(module, number, settings)
            search.load_state_dict(read_checkpoint(settings.checkpoint, own, settings.on_note))
            for index in range(search.seen, number):
                search.look_at(index, _candidate(module, index))
                if settings.on_update:
                    settings.on_update(index + 1, number)
                self._save(search, own, number, settings)
            return search.results(self._objective)

    def _origin(self, module: LatentPairModule, number: int, settings: FitSettings) -> dict[str, Any]:
        if settings.checkpoint is None:
            return {}
        return origin(self.name, module.pairs, [number, *deciding(module, self._objective, settings)])

    @staticmethod
    def _save(search: _Search, own: dict[str, Any], number: int, settings: FitSettings) -> None:
        """Writes the checkpoint where it is time to, and stops where that is asked for."""
        every, stop = settings.save_every_n_updates, None
        try:
            settings.stop_if_asked(search.seen, number)
        except Interrupted as asked:
            stop = asked
        due = stop is not None or search.seen == number or bool(every and search.seen % every == 0)
        if due and settings.checkpoint is not None:
            write_checkpoint(settings.checkpoint, {ORIGIN: own, "search": search.state_dict()})
        if stop is not None:
            raise stop

    def _affordable(self, module: LatentPairModule) -> int:
        one = module.chain.sampling_calls
        return max(1, module.chain.optimization_calls(module.latents, self._updates) // one) if one else 1


def _candidate(module: LatentPairModule, index: int) -> Tensor:
    """(S, B, C, h, w); the first one is the module's own."""
    own = module.latents.detach()
    if index == 0:
        return own
    generators = [pair_generator(pair.seed, "best_of_n", index) for pair in module.pairs]
    drawn = torch.stack([torch.randn(own.shape[2:], generator=generator) for generator in generators])
    return drawn.to(own).expand_as(own)


class _Search:
    """The best of each pair so far."""

    def __init__(self, module: LatentPairModule) -> None:
        self._module = module
        self._history: list[list[dict[str, float]]] = [[] for _ in module.pairs]
        self._best: list[dict[str, Any]] = [{"selection": math.inf} for _ in module.pairs]
        self._first: Tensor | None = None

    @property
    def seen(self) -> int:
        """Candidates so far."""
        return len(self._history[0])

    def state_dict(self) -> dict[str, Any]:
        """Everything found so far, in plain values, with images as PNG."""
        assert self._first is not None
        best = [{**own, "image": pack_image(own["image"])} if "image" in own else own for own in self._best]
        first = [pack_image(image) for image in self._first]
        return {"history": self._history, "best": best, "first": first, "calls": self._module.guided_model.calls}

    def load_state_dict(self, checkpoint: dict[str, Any] | None) -> None:
        """Goes on from a checkpoint, if there is one."""
        if checkpoint is None:
            return
        state = checkpoint["search"]
        self._history, self._module.guided_model.calls = state["history"], state["calls"]
        self._first = torch.stack([unpack_image(image) for image in state["first"]])
        self._best = [{**own, "image": unpack_image(own["image"])} if "image" in own else own for own in state["best"]]

    def look_at(self, index: int, latents: Tensor) -> None:
        """Samples and judges one candidate of each pair."""
        images = self._module(latents).images[0].clamp(0, 1)
        # Salient regions are those of the image itself: evaluating keeps none.
        selection = self._module.objectives[0].evaluate(images)
        pixels = eight_bit(images).cpu()
        if self._first is None:
            self._first = pixels
        for pair, (history, best) in enumerate(zip(self._history, self._best, strict=True)):
            value = float(selection[pair])
            norm = float(latents[0, pair].norm())
            history.append({"update": index, "loss": value, "selection": value, "latent_norm": norm})
            if math.isfinite(value) and value < best["selection"]:
                best |= {"selection": value, "index": index}
                best |= {"latents": latents[:, pair].cpu().clone(), "image": pixels[pair].clone()}

    def results(self, objective: Objective) -> list[PairResult]:
        """One per pair."""
        assert self._first is not None
        latents, images = self._module.latents.detach().cpu(), self._first
        found = []
        for pair, best in enumerate(self._best):
            chosen = best.get("image", images[pair])
            found.append(
                PairResult(
                    self._module.pairs[pair],
                    initial_image=images[pair],
                    final_image=chosen,
                    initial_latents=latents[:, pair],
                    final_latents=best.get("latents", latents[:, pair]),
                    saliency_map=self._saliency(objective, pair, chosen),
                    best_step=best.get("index", 0),
                    history=self._history[pair],
                    error=None if "image" in best else "the objective was never finite",
                    network_evaluations=self._module.guided_model.calls,
                )
            )
        return found

    def _saliency(self, objective: Objective, pair: int, image: Tensor) -> Tensor | None:
        if objective.saliency is None:
            return None
        own = self._module.pairs[pair]
        seen = image[None].to(self._module.guided_model.device)
        found = objective.bind([own])(seen, [pair_generator(own.seed, "crops0")], 0).saliency_map
        return None if found is None else eight_bit(found[0]).cpu()
