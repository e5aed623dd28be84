"""A method from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sgool.methods.base import Method
from sgool.methods.best_of_n import BestOfN
from sgool.methods.clip_guidance import ClipGuidance
from sgool.methods.optimize import LatentOptimization
from sgool.methods.vanilla import Vanilla
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import Objective, Term


def build_method(
    name: str,
    options: Mapping[str, Any],
    optimization: Mapping[str, Any],
    models: StableDiffusion,
    objective: Callable[[], Objective],
    held_out: Callable[[], Term | None] = lambda: None,
) -> Method:
    """The method of a validated ``method.NAME``.

    Args:
        name: Of the method, as in the run folder.
        options: The entry below ``method``; its ``kind`` decides.
        optimization: The settings of this method's optimisation, or of the one whose network calls it may spend.
        models: Frozen diffusion components.
        objective: Makes what to minimise; not called for a method that has nothing to do with one.
        held_out: Makes the term that stops pairs early, if there is one.
    """
    kind = options["kind"]
    if kind == "optimize":
        return LatentOptimization(name, models, objective(), optimization, held_out())
    if kind == "best_of_n":
        updates = optimization["num_optimization_steps"]
        return BestOfN(name, models, objective(), updates, options["num_candidates"])
    if kind == "clip_guidance":
        own = {key: options[key] for key in ("clip_guidance_scale", "through_network", "estimate")}
        return ClipGuidance(name, models, objective(), **own)
    return Vanilla(models)
