"""DOODL and SGOOL: gradient descent on the latents; they differ in their objective alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sgool.callbacks import Trajectory, default_callbacks
from sgool.methods.base import FitSettings, PairResult
from sgool.models.load import DiffusionModels
from sgool.module import LatentPairModule
from sgool.objectives import Objective
from sgool.trainer import fit_module
from sgool.types import PromptSeed


class LatentOptimization:
    """Optimises the first latents through the whole denoising chain.

    With an objective on global crops this is DOODL (Wallace et al. 2023), with salient regions as well SGOOL.

    Args:
        name: Of the method, as in the run folder.
        models: Frozen diffusion components.
        objective: What to minimise.
        optimization: ``num_optimization_steps``, ``lr``, ``momentum`` and the arguments of
            `sgool.callbacks.default_callbacks`.
    """

    def __init__(
        self, name: str, models: DiffusionModels, objective: Objective, optimization: Mapping[str, Any]
    ) -> None:
        self.name = name
        self._models, self._objective = models, objective
        options = dict(optimization)
        self._module_options = {k: options.pop(k) for k in ("num_optimization_steps", "lr", "momentum") if k in options}
        self._callback_options = options

    def run(self, pairs: Sequence[PromptSeed], settings: FitSettings) -> list[PairResult]:
        """One fit for the whole batch."""
        module = LatentPairModule(self._models, pairs, self._objective, **settings.module, **self._module_options)
        callbacks = default_callbacks(**self._callback_options)
        fit_module(module, callbacks, options=settings.trainer, logger=settings.logger, on_update=settings.on_update)
        trajectory = next(c for c in callbacks if isinstance(c, Trajectory))
        return [self._result(module, trajectory, index) for index in range(len(module.pairs))]

    @staticmethod
    def _result(module: LatentPairModule, trajectory: Trajectory, index: int) -> PairResult:
        assert trajectory.first is not None
        first, best = trajectory.first, trajectory.best[index]
        initial = first.images[index].cpu()
        error = module.failures.get(index)
        if "image" not in best and error is None:
            error = "the objective was never finite"
        return PairResult(
            pair=module.pairs[index],
            initial_image=initial,
            final_image=best.get("image", initial),
            initial_latents=first.latents[:, index].cpu(),
            final_latents=best.get("latents", first.latents[:, index].cpu()),
            saliency_map=best.get("saliency_map"),
            best_step=int(best["update"]),
            history=trajectory.history[index],
            error=error,
            num_optimization_steps=module.num_optimization_steps,
            network_evaluations=module.guided_model.calls,
            snapshots=[(update, torch.clone(images[index])) for update, images in trajectory.snapshots],
        )
