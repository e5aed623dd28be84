"""DOODL, SGOOL and ReNO: gradient descent on the first latents; they differ in their objective and settings alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from sgool.callbacks import EarlyStop, FitCheckpoint, Trajectory, default_callbacks
from sgool.methods.base import FitSettings, PairResult, deciding
from sgool.methods.latent_pairs import LatentPairModule
from sgool.methods.trainer import fit_module
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import Objective, Term
from sgool.results.checkpoint import origin
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
        models: StableDiffusion,
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
        """One fit for the whole batch, from the checkpoint if it has one.

        Raises:
            Interrupted: It was asked to stop; the update under way is done and the checkpoint written.
        """
        module = LatentPairModule(self._models, pairs, self._objective, **settings.module, **self._module_options)
        callbacks = default_callbacks(**self._callback_options, on_note=settings.on_note)
        checkpoint = FitCheckpoint(
            settings.checkpoint,
            self._origin(module, settings),
            every=settings.save_every_n_updates,
            interrupted=settings.interrupted,
        )
        fit_module(
            module,
            callbacks,
            options=settings.trainer,
            logger=settings.logger,
            on_update=settings.on_update,
            checkpoint=checkpoint,
            resume_from=checkpoint.usable(settings.on_note),
        )
        trajectory = next(c for c in callbacks if isinstance(c, Trajectory))
        results = [self._result(module, trajectory, index) for index in range(len(module.pairs))]
        return [replace(result, seconds_before=checkpoint.seconds_before) for result in results]

    def _origin(self, module: LatentPairModule, settings: FitSettings) -> dict[str, Any]:
        if settings.checkpoint is None:
            return {}
        options = [self._module_options, self._callback_options]
        return origin(self.name, module.pairs, [*options, *deciding(module, self._objective, settings)])

    @staticmethod
    def _result(module: LatentPairModule, trajectory: Trajectory, index: int) -> PairResult:
        assert trajectory.first_latents is not None and trajectory.first_images is not None
        first, best = trajectory.first_latents[:, index], trajectory.best[index]
        initial = trajectory.first_images[index]
        error = module.failures.get(index)
        if "image" not in best and error is None:
            error = "the objective was never finite"
        updates, calls = module.stopped.get(index, (module.num_optimization_steps, module.guided_model.calls))
        snapshots = [(update, torch.clone(images[index])) for update, images in trajectory.snapshots]
        return PairResult(
            pair=module.pairs[index],
            initial_image=initial,
            final_image=best.get("image", initial),
            initial_latents=first,
            final_latents=best.get("latents", first),
            saliency_map=best.get("saliency_map"),
            best_step=int(best["update"]),
            history=trajectory.history[index],
            error=error,
            num_optimization_steps=updates,
            network_evaluations=calls,
            snapshots=[(update, image) for update, image in snapshots if update <= updates],
            retries=int(index in module.retries),
        )
