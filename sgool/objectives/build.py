"""Builds an objective from the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sgool.errors import ConfigError
from sgool.models.networks import Networks
from sgool.objectives.objective import CropSettings, Objective, SaliencySettings
from sgool.objectives.options import TERMS
from sgool.objectives.terms import Term

Options = Mapping[str, Any]
_NONE: Mapping[str, tuple[Term, float]] = MappingProxyType({})


def build_objective(
    options: Options,
    networks: Networks,
    saliency: SaliencySettings | None = None,
    *,
    clamp_images: bool = False,
    further: Mapping[str, tuple[Term, float]] = _NONE,
) -> Objective:
    """Builds the objective of a validated ``objective``.

    Args:
        options: ``terms`` (name -> type, weight and the type's own keys) and ``crops``.
        networks: The run's networks, from which terms get theirs.
        saliency: Settings of salient regions; None: only global crops.
        clamp_images: Whether images are clamped to [0, 1] before terms see them.
        further: Name -> term and weight, of terms that are made already.

    Raises:
        ConfigError: Files are missing, or a further term has the name of another; it lists all problems, before any
            network loads.
        SgoolError: A network's files, or a user's own class or function, have a problem.
    """
    _check_files(options["terms"], taken_names(options["terms"], further))
    terms = {name: build_term(name, term, networks) for name, term in options["terms"].items()}
    weights = {name: float(term["weight"]) for name, term in options["terms"].items()}
    terms |= {name: term for name, (term, _) in further.items()}
    weights |= {name: float(weight) for name, (_, weight) in further.items()}
    frames = options.get("frames", "all")
    crops, looked_at = CropSettings(**options["crops"]), None if frames == "all" else int(frames)
    return Objective(terms, weights, crops, saliency, clamp_images, looked_at)


def build_term(name: str, options: Options, networks: Networks) -> Term:
    """Builds one term of a validated configuration; its ``name`` appears in histories.

    Raises:
        ConfigError: Files are missing.
        SgoolError: The term's files, class or function have a problem.
    """
    _check_files({name: options})
    settings = {key: value for key, value in options.items() if key not in ("type", "weight")}
    offered = {"name": name, "networks": networks}
    return TERMS.build(options["type"], settings, f"objective.terms.{name}", offered)


def taken_names(configured: Mapping[str, Options], further: Mapping[str, tuple[Term, float]]) -> list[str]:
    """Returns what is wrong with the names of further terms: one that a configured term has would replace that term."""
    return [
        f"`objective`: the configuration has a term named {name!r} already; give the function or term another name, or "
        f"leave out the objective of the configuration that has {name!r}"
        for name in further
        if name in configured
    ]


def _check_files(terms: Mapping[str, Options], found: Sequence[str] = ()) -> None:
    problems = list(found)
    problems += [text for name, term in terms.items() for text in TERMS.problems(term, f"objective.terms.{name}", {})]
    if problems:
        raise ConfigError(problems)
