"""The files of a run folder that say how to show metrics, which networks took part, and which pairs there are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sgool.config.paths import home_path
from sgool.results.atomic import atomic_write
from sgool.results.claims import sole_writer
from sgool.types import DataIds

_logger = logging.getLogger(__name__)


class RunFacts:
    """The files ``RUN/metrics.json``, ``RUN/networks.json`` and ``RUN/dataset.json``, which reports read.

    Several processes and several starts may write these files: each adds what it knows, but the data set is that of
    the last start. Run folders of earlier versions have none of them.

    ::

        metrics.json    NAME: {"title": "CLIP score", "higher_is_better": true, "digits": 2, ...}
        networks.json   "judges":     {JUDGE: [fingerprints]}
                        "objectives": {METHOD: {TERM: [fingerprints]}}
        dataset.json    "any_seed": [ids without seeds], "exact": [ids]    which pairs belong to the data set
                        "phrases": {ID WITHOUT SEED: [phrases]}            those of the prompt file, or found by spaCy

    Args:
        path: The run folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = home_path(str(path))

    def describe_metrics(self, descriptions: Mapping[str, Mapping[str, Any]]) -> None:
        """Records how to show metrics; a new description replaces an earlier one of the same metric.

        Args:
            descriptions: Name in records -> title, direction and so on, from `sgool.metrics.JudgePanel.descriptions`.

        Raises:
            SgoolError: The folder cannot be written.
        """
        new = {name: dict(description) for name, description in descriptions.items()}
        self._change("metrics.json", lambda known: known | new)

    def record_judges(self, fingerprints: Mapping[str, Iterable[str]], *, replace: bool = False) -> None:
        """Records the networks that judged.

        Args:
            fingerprints: Judge -> fingerprints of its networks, as from `sgool.metrics.JudgePanel.fingerprints`.
            replace: True where all scores are from these judges. Else networks of earlier judges stay in the record,
                since they may have given some of the scores.

        Raises:
            SgoolError: The folder cannot be written.
        """

        def change(known: dict[str, Any]) -> dict[str, Any]:
            judges = {} if replace else _mapping(known.get("judges"))
            return known | {"judges": _joined(judges, fingerprints)}

        self._change("networks.json", change)

    def record_objective(self, method: str, fingerprints: Mapping[str, Iterable[str]]) -> None:
        """Records the networks that a method optimised against, beside those of its earlier starts.

        It has to be called for every method, also for one that optimises nothing: without a record, the method's
        networks count as unknown.

        Args:
            method: The method's name in the configuration.
            fingerprints: Term -> fingerprints of its networks, as from `sgool.objectives.Objective.fingerprints`, and
                those of a term that stops pairs early; empty for a method without an objective.

        Raises:
            SgoolError: The folder cannot be written.
        """

        def change(known: dict[str, Any]) -> dict[str, Any]:
            objectives = _mapping(known.get("objectives"))
            terms = _joined(_mapping(objectives.get(method)), fingerprints)
            return known | {"objectives": objectives | {method: terms}}

        self._change("networks.json", change)

    def set_dataset(self, ids: DataIds) -> None:
        """Records which pairs belong to the run's data set; records of other pairs no longer count (`RunFolder.scan`).

        Raises:
            SgoolError: The folder cannot be written.
        """
        new: dict[str, Any] = {"any_seed": sorted(ids.any_seed), "exact": sorted(ids.exact)}
        if ids.phrases:
            new["phrases"] = {name: list(ids.phrases[name]) for name in sorted(ids.phrases)}
        self._change("dataset.json", lambda known: new)

    def dataset(self) -> DataIds | None:
        """Returns which pairs belong to the run's data set; None where nothing is recorded."""
        found = self._read("dataset.json")
        phrases = {name: tuple(_texts(value)) for name, value in _mapping(found.get("phrases")).items()}
        ids = DataIds(frozenset(_texts(found.get("exact"))), frozenset(_texts(found.get("any_seed"))), phrases)
        return ids if ids.exact or ids.any_seed else None

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """Returns how to show each metric, by the metric's name; empty where nothing is recorded."""
        return {name: _mapping(value) for name, value in self._read("metrics.json").items()}

    def networks(self) -> dict[str, Any]:
        """Returns the content of ``networks.json``, as the class describes it; empty where nothing is recorded."""
        found = self._read("networks.json")
        judges, objectives = _mapping(found.get("judges")), _mapping(found.get("objectives"))
        terms = {method: _joined(_mapping(known), {}) for method, known in objectives.items()}
        return {"judges": _joined(judges, {}), "objectives": terms} if judges or objectives else {}

    def _change(self, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Writes a file anew if something in it changes; a crash leaves the old one."""
        with sole_writer(self.path):
            known = self._read(name)
            new = change(known)
            if new != known:
                text = json.dumps(new, indent=2, ensure_ascii=False) + "\n"
                atomic_write(self.path / name, text.encode())

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            _logger.warning("%s is unreadable: %s", path, error)
            return {}


def _joined(known: Mapping[str, Any], new: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Joins two mappings of names to fingerprints: each name gets the fingerprints of both."""
    return {name: sorted({*_texts(known.get(name)), *new.get(name, ())}) for name in dict.fromkeys([*known, *new])}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, (list, tuple)) else []
