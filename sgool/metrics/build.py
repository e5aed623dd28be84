"""Builds judges from the configuration, with networks that they share with the objective's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sgool.config.rules import check
from sgool.errors import ConfigError, SgoolError
from sgool.metrics.base import ChangeScore, ImageScore, MeanScore, PairScore, TextScore
from sgool.metrics.options import JUDGES, complete_judges, judge_problems
from sgool.models.networks import Networks

Options = Mapping[str, Any]
Judge = Sequence[MeanScore]
#: Base classes of the metrics that a user's own judge may have; each gets the arguments that its `score` needs.
_SCORES = (TextScore, PairScore, ImageScore, ChangeScore)


def build_judges(judges: Mapping[str, Options], terms: Mapping[str, Options], networks: Networks) -> dict[str, Judge]:
    """Builds the metrics of each judge.

    Args:
        judges: The configuration's ``models.judges``.
        terms: The configuration's ``objective.terms``, whose reference images a judge of type ``image`` may share.
        networks: The run's networks, from which judges get theirs.

    Raises:
        ConfigError: Files are missing; it lists all of them, before any network loads.
        SgoolError: A network's files, or a user's own class or function, have a problem.
    """
    if problems := list(judge_problems(judges, terms)):
        raise ConfigError(problems)
    return {name: _build(name, dict(judge), terms, networks) for name, judge in judges.items()}


def _build(name: str, options: dict[str, Any], terms: Mapping[str, Options], networks: Networks) -> Judge:
    kind, where = options.pop("type", "clip"), f"models.judges.{name}"
    offered: dict[str, Any] = {"name": name, "networks": networks}
    if kind in JUDGES.components:
        return JUDGES.build(kind, options, where, {**offered, "terms": terms})
    built = JUDGES.build(kind, options, where, offered)
    metrics = [built] if isinstance(built, MeanScore) else built
    if not (isinstance(metrics, Sequence) and metrics and all(isinstance(metric, _SCORES) for metric in metrics)):
        raise SgoolError(
            f"`{where}._target_`: expected a judge, a TextScore, PairScore, ImageScore or ChangeScore of "
            f"sgool.metrics.base or a list of them, got {built!r} from {options['_target_']} (see {JUDGES.docs})"
        )
    return metrics


def checked_judges(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the completed ``models.judges`` of a run folder's configuration, after a check.

    Somebody may have edited the configuration since the run.

    Raises:
        ConfigError: A judge has a problem; it lists all problems.
    """
    given = config.get("models", {}).get("judges")
    given = given if isinstance(given, Mapping) else {}
    judges = {name: dict(judge) if isinstance(judge, Mapping) else judge for name, judge in given.items()}
    complete_judges(judges)
    problems = [
        found.text for name, judge in judges.items() for found in check(judge, JUDGES.schema, f"models.judges.{name}")
    ]
    problems = problems or list(judge_problems(judges, config["objective"]["terms"]))
    if problems:
        raise ConfigError(problems)
    return judges
