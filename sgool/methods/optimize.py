"""DOODL, SGOOL and ReNO: gradient descent on the first latents; they differ in their objective and settings alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sgool.callbacks import EarlyStop, Trajectory, default_callbacks
from sgool.methods.base import FitSettings, PairResult
from sgool.models.load import DiffusionModels
from sgool.module import LatentPairModule
from sgool.objectives import Objective, Term
from sgool.trainer import fit_module
from sgool.types import PromptSeed

_OF_THE_MODULE = ("num_optimization_steps", "lr", "momentum", "nesterov")


class LatentOptimization:
    """Optimises the first latents through the whole denoising chain.

    With an objective on global crops this is DOODL (Wallace et al. 2023), with salient regions as well SGOOL, with the
    norm regulariser and clipping by norm, but without noise and renormalisation, ReNO (Eyring et al. 2024).

    Args:
        name: Of the method, as in the run folder.
        models: Frozen diffusion components.
        objective: What to minimise.
        optimization: ``num_optimization_steps``, ``lr``, ``momentum``, ``nesterov``, ``early_stop`` and the arguments
            of `sgool.callbacks.default_callbacks`.
        held_out: The term that ``early_stop`` watches; None: no pair is stopped early.
    """

    def __init__(
        self,
        name: str,
        models: DiffusionModels,
        objective: Objective,
        optimization: Mapping[str, Any],
        held_out: Term | None = None,
    ) -> None:
        self.name = name
        self._models, self._objective = models, objective
        options = dict(optimization)
        stopping = options.pop("early_stop", None)
        self._module_options = {k: options.pop(k) for k in _OF_THE_MODULE if k in options}
        self._callback_options = options
        if held_out is not None and stopping:
            self._callback_options["early_stop"] = EarlyStop(held_out, stopping["patience"])

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
        updates, calls = module.stopped.get(index, (module.num_optimization_steps, module.guided_model.calls))
        snapshots = [(update, torch.clone(images[index])) for update, images in trajectory.snapshots]
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
            num_optimization_steps=updates,
            network_evaluations=calls,
            snapshots=[(update, image) for update, image in snapshots if update <= updates],
        )
