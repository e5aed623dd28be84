"""A method from the configuration: its LightningModule, and the callbacks that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L

from sgool.callbacks import EarlyStop, default_callbacks
from sgool.diffusion import Chain
from sgool.methods.base import PairModule
from sgool.methods.best_of_n import BestOfN
from sgool.methods.clip_guidance import ClipGuidance
from sgool.methods.latent_pairs import LatentPairModule
from sgool.methods.vanilla import Vanilla
from sgool.metrics.panel import JudgePanel
from sgool.objectives import Objective, Term

_OF_THE_MODULE = ("num_optimization_steps", "lr", "momentum", "nesterov")


@dataclass(frozen=True)
class Ingredients:
    """What a method is made of.

    Attributes:
        chain: The denoising chain.
        judges: The run's judges, or None.
        objective: Makes what to minimise; not called for a method that has nothing to do with one.
        held_out: Makes the term that stops pairs early, if there is one.
        optimization: The settings of this method's optimisation, or of the one whose network calls it may spend.
        on_note: Told what the user should know.
    """

    chain: Chain
    judges: JudgePanel | None
    objective: Callable[[], Objective]
    held_out: Callable[[], Term | None]
    optimization: Mapping[str, Any]
    on_note: Callable[[str], None] | None = None


def build_method(name: str, options: Mapping[str, Any], given: Ingredients) -> tuple[PairModule, list[L.Callback]]:
    """The method of a validated ``method.NAME``.

    Args:
        name: Of the method, as in the run folder.
        options: The entry below ``method``; its ``kind`` decides.
        given: What it may be made of.

    Returns:
        The module, and the callbacks of its Trainer.
    """
    module, callbacks = _KINDS[options["kind"]](options, given)
    module.method = name
    return module, callbacks


def _optimize(options: Mapping[str, Any], given: Ingredients) -> tuple[PairModule, list[L.Callback]]:
    settings = dict(given.optimization)
    stopping, own = settings.pop("early_stop", None), {k: settings.pop(k) for k in _OF_THE_MODULE if k in settings}
    held_out = given.held_out()
    if held_out is not None and stopping:
        settings["early_stop"] = EarlyStop(held_out, stopping["patience"])
    module = LatentPairModule(given.chain, given.objective(), judges=given.judges, **own)
    return module, default_callbacks(**settings, on_note=given.on_note)


def _best_of_n(options: Mapping[str, Any], given: Ingredients) -> tuple[PairModule, list[L.Callback]]:
    updates = given.optimization["num_optimization_steps"]
    return BestOfN(given.chain, given.objective(), updates, options["num_candidates"], judges=given.judges), []


def _clip_guidance(options: Mapping[str, Any], given: Ingredients) -> tuple[PairModule, list[L.Callback]]:
    own = {key: options[key] for key in ("clip_guidance_scale", "through_network", "estimate")}
    return ClipGuidance(given.chain, given.objective(), judges=given.judges, **own), []


def _vanilla(options: Mapping[str, Any], given: Ingredients) -> tuple[PairModule, list[L.Callback]]:
    return Vanilla(given.chain, judges=given.judges), []


_KINDS: dict[str, Callable[[Mapping[str, Any], Ingredients], tuple[PairModule, list[L.Callback]]]] = {
    "optimize": _optimize,
    "best_of_n": _best_of_n,
    "clip_guidance": _clip_guidance,
    "vanilla": _vanilla,
}
