"""A method: the pair's own first latents or their negative, whichever image the objective likes better."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgool.diffusion import Chain
from sgool.methods import PairModule
from sgool.objectives import Objective
from sgool.prompts.batches import PairBatch
from sgool.results.checkpoint import eight_bit
from sgool.types import PairResult


class Mirror(PairModule):
    def __init__(self, chain: Chain, objective: Objective, *, sign: int = -1, judges: Any = None) -> None:
        super().__init__(chain, judges=judges)
        self.objective, self.sign = objective, sign

    def start(self, latents: Tensor) -> None:
        self.first = latents

    def round(self, batch: PairBatch) -> None:
        tried = [self.first, self.sign * self.first]
        images = [self.first_images(latents) for latents in tried]
        scores = torch.stack([self.objective.bind(self.pairs).evaluate(image) for image in images])
        results = []
        for index, pair in enumerate(self.pairs):
            best = int(scores[:, index].argmin())
            before, after = (eight_bit(image[index]).cpu() for image in (images[0], images[best]))
            latents = [one[:, index].cpu() for one in (tried[0], tried[best])]
            history = [{"update": k, "loss": float(s), "selection": float(s)} for k, s in enumerate(scores[:, index])]
            results.append(
                PairResult(
                    pair,
                    before,
                    after,
                    *latents,
                    best_step=best,
                    history=history,
                    network_evaluations=self.batch_chain.calls,
                )
            )
        self.deliver(results)
