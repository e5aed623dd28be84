"""The baseline: sampling with the same sampler and seed, no objective."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sgool.methods.base import FitSettings, PairResult
from sgool.methods.latent_pairs import LatentPairModule
from sgool.methods.trainer import autocast_like
from sgool.models.stable_diffusion import StableDiffusion
from sgool.results.checkpoint import eight_bit
from sgool.types import PromptSeed


class Vanilla:
    """Plain sampling."""

    name = "vanilla"

    def __init__(self, models: StableDiffusion) -> None:
        self._models = models

    def run(self, pairs: Sequence[PromptSeed], settings: FitSettings) -> list[PairResult]:
        """One image a pair; initial and final are the same."""
        module = LatentPairModule(self._models, pairs, **settings.module)
        with torch.no_grad(), autocast_like(settings.trainer, module.latents.device):
            settings.stop_if_asked(0, 1)
            images = eight_bit(module.sample()).cpu()
        latents = module.latents.detach().cpu()
        return [
            PairResult(
                pair, images[i], images[i], latents[:, i], latents[:, i], network_evaluations=module.guided_model.calls
            )
            for i, pair in enumerate(pairs)
        ]
