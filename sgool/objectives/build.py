"""An objective from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgool.errors import ConfigError
from sgool.models.networks import Networks
from sgool.objectives.objective import CropSettings, Objective, SaliencySettings
from sgool.objectives.options import TERMS
from sgool.objectives.terms import Term

Options = Mapping[str, Any]


def build_objective(options: Options, networks: Networks, saliency: SaliencySettings | None = None) -> Objective:
    """The objective of a validated ``objective``.

    Args:
        options: ``terms`` (name -> type, weight and the type's own keys) and ``crops``.
        networks: Where terms get their networks.
        saliency: Salient regions as further views; None: global crops alone.

    Raises:
        ConfigError: All files that are missing, before any network loads.
        SgoolError: What a network's files, a class or a function of the user's is wrong with.
    """
    _check_files(options["terms"])
    terms = {name: build_term(name, term, networks) for name, term in options["terms"].items()}
    weights = {name: float(term["weight"]) for name, term in options["terms"].items()}
    return Objective(terms, weights, CropSettings(**options["crops"]), saliency)


def build_term(name: str, options: Options, networks: Networks) -> Term:
    """One term; ``name`` appears in histories.

    Raises:
        ConfigError: Missing files.
        SgoolError: What the term's files, class or function is wrong with.
    """
    _check_files({name: options})
    settings = {key: value for key, value in options.items() if key not in ("type", "weight")}
    offered = {"name": name, "networks": networks}
    return TERMS.build(options["type"], settings, f"objective.terms.{name}", offered)


def _check_files(terms: Mapping[str, Options]) -> None:
    problems = [text for name, term in terms.items() for text in TERMS.problems(term, f"objective.terms.{name}", {})]
    if problems:
        raise ConfigError(problems)
