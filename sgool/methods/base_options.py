"""What the options of all methods have in common: capabilities, and what they may spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sgool.config.options import Config, Options, option
from sgool.config.rules import Problem, Schema, check, integer, mapping, number, optional

#: What the configuration's ``budget`` may hold.
BUDGET: dict[str, Schema] = {"calls": optional(integer(1)), "seconds": optional(number(above=0))}
#: What it is where a configuration of an earlier version leaves it out: no limit.
BUDGET_DEFAULTS: dict[str, Any] = {"calls": None, "seconds": None}


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Options):
    """What a method can do and needs. Its `problems` are asked for only if the method is to run.

    Attributes:
        needs_objective: Whether it minimises the objective.
        optimizes: Whether it updates latents as ``optimization`` says, so that this and its early stop count.
        starts_from_image: Whether it can begin with latents that were found for an image.
        budget: Keys of ``budget`` with other values for this method alone.
        saliency: Keys of ``saliency`` with other values for this method alone, without the detector.
    """

    needs_objective: ClassVar[bool | None] = True
    optimizes: ClassVar[bool | None] = False
    starts_from_image: ClassVar[bool | None] = False

    budget: Mapping[str, Any] = option({}, mapping("keys of `budget`"))
    saliency: Mapping[str, Any] = option({}, mapping("keys of `saliency`"))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mapping with another one's values over its own, in nested mappings as well."""
    found = dict(base)
    for key, value in over.items():
        inner = found.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        found[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return found


def optimizing_methods(config: Config) -> list[str]:
    """Returns the names of the shipped methods that update latents: those with own values of ``optimization``."""
    return [name for name, own in config["method"].items() if "optimization" in own and "_target_" not in own]


def method_budget(config: Config, name: str) -> dict[str, Any]:
    """Returns ``budget`` with a method's own values over it.

    A method that may spend what another one costs (``same_budget_as``), and has no budget of its own, has that of the
    other one.
    """
    method = config["method"][name]
    own = merged(config["budget"], method.get("budget", {}))
    other = config["method"].get(method.get("same_budget_as"))
    follows = other is not None and method.get("num_candidates") is None and own == BUDGET_DEFAULTS
    return merged(own, other.get("budget", {})) if follows else own


def method_saliency(config: Config, name: str) -> dict[str, Any]:
    """Returns ``saliency`` with a method's own values over it."""
    return merged(config["saliency"], config["method"][name].get("saliency", {}))


def own_saliency_problems(config: Config, rules: Mapping[str, Schema]) -> list[Problem]:
    """Finds own values of ``saliency`` in methods that break its rules; all else must be sound.

    Args:
        config: The configuration.
        rules: What ``saliency`` may hold.
    """
    problems = []
    for name, method in config["method"].items():
        where = f"method.{name}.saliency"
        if "detector" in method.get("saliency", {}):
            text = f"`{where}.detector`: all methods of a run share one detector; run {name} by itself, with saliency="
            problems.append(Problem(f"{where}.detector", f"{text}NAME"))
        elif method.get("saliency"):
            problems += check(method_saliency(config, name), rules, where)
    return problems


def own_budget_problems(config: Config) -> list[Problem]:
    """Finds own values of ``budget`` in methods that break its rules; all else must be sound."""
    return [
        problem
        for name, method in config["method"].items()
        if method.get("budget")
        for problem in check(merged(config["budget"], method["budget"]), BUDGET, f"method.{name}.budget")
    ]
