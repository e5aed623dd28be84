"""Which metrics a report shows, how, and which of them somebody optimised against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sgool.config.judges import optimised_against

INITIAL = "_initial"
_SCORE = "/clip_score"
_GUIDE = "guide"
_SCENE = "scene_accuracy"
_NETWORK_KEYS = ("clip", "model", "network", "path", "pretrained")


@dataclass(frozen=True)
class Metric:
    """A metric, higher is better.

    Attributes:
        key: Its key in the records; ``KEY_initial`` is its value on the first image.
        title: For table heads.
        scale: Factor for display.
        unit: Behind a value.
        difference_unit: Behind a difference.
        digits: Decimals in display.
        optimised: Whether the run's objective used the same network: then it is no evidence of quality.
    """

    key: str
    title: str
    scale: float = 1.0
    unit: str = ""
    difference_unit: str = ""
    digits: int = 1
    optimised: bool = False

    @property
    def initial(self) -> str:
        """The key of its value on the first image."""
        return self.key + INITIAL


def shown_metrics(names: Iterable[str], configs: Iterable[Mapping[str, Any]] = ()) -> list[Metric]:
    """The metrics of a report's tables: judges first, then scene accuracy, then scores that were optimised.

    Args:
        names: Keys found in the records.
        configs: The runs' configurations, to find judges that an objective used.
    """
    present = set(names)
    configs = list(configs)
    judges = sorted(name.removesuffix(_SCORE) for name in present if name.endswith(_SCORE))
    scores = []
    for judge in judges:
        # Without a configuration nobody knows what the guide was used for.
        optimised = (judge == _GUIDE and not configs) or any(judge_was_optimised(judge, config) for config in configs)
        title = f"{judge.replace('_', ' ').replace('/', ' ').capitalize()} CLIP score"
        scores.append(Metric(judge + _SCORE, title, digits=2, optimised=optimised))
    independent = [metric for metric in scores if not metric.optimised]
    used = [metric for metric in scores if metric.optimised]
    scene = [Metric(_SCENE, "Scene accuracy", 100.0, " %", " pp", 0)] if _SCENE in present else []
    return independent + scene + used


def scene_parts(names: Iterable[str]) -> list[str]:
    """The scene reader's single answers among metric keys: ``objects``, ``colours``, ``count``, ``relation``, ..."""
    found = {name.removeprefix("scene/") for name in names if name.startswith("scene/") and not name.endswith(INITIAL)}
    usual = ["objects", "colours", "count", "relation"]
    return [part for part in usual if part in found] + sorted(found - set(usual))


def judge_networks(config: Mapping[str, Any]) -> dict[str, str]:
    """Judge name -> its network, as far as a configuration tells.

    Looks for ``judge: NETWORK`` and ``judges: {NAME: NETWORK}`` at any depth; a network is a name or path, or a mapping
    with keys such as ``model`` and ``pretrained``.
    """
    networks: dict[str, str] = {}
    for path, node in _nodes(config):
        network = _network(node)
        if network is not None and path[-1] == "judge":
            networks.setdefault("judge", network)
        elif network is not None and "judges" in path[-2:]:
            networks.setdefault("judge" if path[-1] == "judges" else path[-1], network)
    return networks


def objective_networks(config: Mapping[str, Any]) -> set[str]:
    """The networks that a configuration's objective uses: those below ``objective``, else any ``guide``."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for path, node in _nodes(config):
        # A mapping names a network by all its naming keys together: its `model` alone would be another one.
        below = "objective" in path and (isinstance(node, Mapping) or path[-1] == "clip")
        network = _network(node) if below or path[-1] == _GUIDE else None
        if network is not None:
            found[below].add(network)
    return found[True] or found[False]


def judge_was_optimised(judge: str, config: Mapping[str, Any]) -> bool:
    """Whether the configuration gives the objective a network of this judge, see `optimised_against`."""
    return judge in optimised_against(config)


def _nodes(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(keys down to it, value) of everything below a configuration, lists looked through."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield (*path, str(key)), value
            yield from _nodes(value, (*path, str(key)))
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _nodes(value, path)


def _network(node: Any) -> str | None:
    """A network's identity as text: the name itself, or the naming keys of a mapping."""
    if isinstance(node, str):
        return node
    if isinstance(node, Mapping):
        parts = [str(node[key]) for key in _NETWORK_KEYS if isinstance(node.get(key), str)]
        return " ".join(parts) or None
    return None
