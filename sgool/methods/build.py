"""A method from the configuration: its LightningModule, and the callbacks that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning as L

from sgool.callbacks import EarlyStop, UpdateCallback, default_callbacks
from sgool.config.kinds import CUSTOM
from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.methods.base import PairModule
from sgool.methods.budget import Budget
from sgool.methods.custom import updates_latents
from sgool.methods.options import METHODS
from sgool.metrics.panel import JudgePanel
from sgool.objectives import Objective, Term

#: Entries of ``method.NAME`` that say what a method gets, and are no arguments of its class.
_NO_ARGUMENTS = (
    "kind",
    "use_saliency",
    "use_crops",
    "clamp_images",
    "optimization",
    "same_budget_as",
    "budget",
    "saliency",
)
#: Entries of ``optimization`` that are arguments of a module; the others are those of `default_callbacks`.
_OF_THE_MODULE = (
    "num_optimization_steps",
    "lr",
    "momentum",
    "nesterov",
    "optimizer",
    "adam",
    "candidates",
    "search_share",
    "max_updates",
    "streams",
)
#: Entries of ``optimization`` that the objective and the chain have got already.
_OF_OTHER_PARTS = ("clamp_images", "steps_offset", "choose_by")


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
        choosing: Makes what chooses among candidates and updates; None in place of one: the objective itself.
        budget: The most that a pair may cost.
    """

    chain: Chain
    judges: JudgePanel | None
    objective: Callable[[], Objective]
    held_out: Callable[[], Term | None]
    optimization: Mapping[str, Any]
    on_note: Callable[[str], None] | None = None
    choosing: Callable[[], Objective | None] = lambda: None
    budget: Budget = field(default_factory=Budget)


def build_method(name: str, entry: Mapping[str, Any], given: Ingredients) -> tuple[PairModule, list[L.Callback]]:
    """Builds the method of a validated ``method.NAME``.

    Its class gets what it has parameters for: ``chain``, ``objective``, ``judges``, ``num_optimization_steps``, ``lr``,
    ``momentum``, ``nesterov``, ``optimizer``, ``adam``, ``candidates``, ``search_share``, ``max_updates``,
    ``streams``, ``choosing``, ``budget``, and its own keys.

    Args:
        name: Of the method, as in the run folder.
        entry: What stands below ``method.NAME``; its ``kind`` decides.
        given: What it may be made of.

    Returns:
        The module, and the callbacks of its Trainer.

    Raises:
        SgoolError: Arguments that do not fit, or a class of the user's own that is no `PairModule`.
    """
    settings = {key: value for key, value in given.optimization.items() if key not in _OF_OTHER_PARTS}
    offered: dict[str, Any] = {"chain": given.chain, "judges": given.judges, "budget": given.budget}
    offered |= {key: settings.pop(key) for key in _OF_THE_MODULE if key in settings}
    if METHODS.options(entry).needs_objective is not False:
        offered |= {"objective": given.objective(), "choosing": given.choosing()}
    own = {key: value for key, value in entry.items() if key not in _NO_ARGUMENTS}
    module = METHODS.build(entry["kind"], own, f"method.{name}", offered)
    if not isinstance(module, PairModule):
        what = entry["_target_"] if entry["kind"] == CUSTOM else entry["kind"]
        raise SgoolError(
            f"`method.{name}`: expected a sgool.methods.PairModule, but {what} makes a {type(module).__name__} (see "
            "docs/methods.md)"
        )
    if given.budget and module.budget != given.budget:
        raise SgoolError(
            f"`budget`: {name} does not look at it, since its class has no parameter `budget`; set "
            f"method.{name}.budget={{calls: null, seconds: null}} to run it without one (see docs/methods.md)"
        )
    if entry["kind"] == CUSTOM and "objective" in offered and offered.get("streams", "first") != module.streams:
        raise SgoolError(
            f"`optimization.streams`: {name} does not look at it, since its class has no parameter `streams`; set "
            "optimization.streams=first (see docs/methods.md)"
        )
    module.method = name
    if module.makes_updates:
        _check_early_stop(name, entry, given)
    return module, _rules(settings, given) if module.makes_updates else []


def refusals(module: PairModule, callbacks: Iterable[L.Callback]) -> list[str]:
    """Returns why callbacks of updates cannot work with a module, a sentence each."""
    problems = []
    for callback in callbacks:
        try:
            if isinstance(callback, UpdateCallback):
                callback.check(module)
        except SgoolError as error:
            problems.append(str(error))
    return problems


def _check_early_stop(name: str, entry: Mapping[str, Any], given: Ingredients) -> None:
    """Refuses an early stop where nobody could see beforehand that the method makes updates."""
    wanted = (given.optimization.get("early_stop") or {}).get("term")
    if wanted is not None and not updates_latents(entry, f"method.{name}"):
        raise SgoolError(
            f"`optimization.early_stop.term`: {name} cannot have one (got {wanted}), since `method.{name}._target_` is "
            "a function; name a class derived from sgool.methods.LatentPairModule there, or set "
            f"+method.{name}.optimization.early_stop.term=null (see docs/methods.md)"
        )


def _rules(settings: dict[str, Any], given: Ingredients) -> list[L.Callback]:
    """What happens around the update of a module that is trained."""
    stopping, held_out = settings.pop("early_stop", None), given.held_out()
    if held_out is not None and stopping:
        settings["early_stop"] = EarlyStop(held_out, stopping["patience"])
    return default_callbacks(**settings, on_note=given.on_note)
