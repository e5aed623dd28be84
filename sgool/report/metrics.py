"""Which metrics a report shows, how it shows them, and which of them were optimised against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from sgool.config.judges import optimised_against

INITIAL = "_initial"
_GUIDE = "guide"
_NETWORK_KEYS = ("clip", "model", "network", "path", "pretrained")

#: For run folders that do not describe their metrics, those of earlier versions: kind of score (the end of a metric's
#: key) -> (title, decimals, direction, place among the others).
_OLDER_RUNS: dict[str, tuple[str, int, int, int]] = {
    "clip_score": ("CLIP score", 2, 1, 0),
    "hps": ("HPS", 2, 1, 10),
    "hps_v2": ("HPS v2", 2, 1, 11),
    "hps_v2.1": ("HPS v2.1", 2, 1, 12),
    "hps_v21": ("HPS v2.1", 2, 1, 13),
    "pickscore": ("PickScore", 2, 1, 20),
    "pick_score": ("PickScore", 2, 1, 21),
    "image_reward": ("ImageReward", 3, 1, 30),
    "aesthetic": ("aesthetic score", 2, 1, 40),
    "similarity": ("image similarity", 2, 1, 50),
    "image_similarity": ("image similarity", 2, 1, 51),
    "lpips": ("LPIPS to the first image", 3, 0, 60),
    "distance": ("distance to the first image", 3, 0, 70),
    "perceptual_distance": ("perceptual distance to the first image", 3, 0, 71),
    "psnr": ("PSNR to the first image", 1, 0, 80),
    "ssim": ("SSIM to the first image", 3, 0, 90),
    "latent_norm": ("latent norm against the first", 2, 0, 100),
}
_LAST = 1000
_HIDDEN = ("objective", "truncated", "non_finite")
_FOR_DISPLAY = ("scale", "unit", "difference_unit", "digits")


@dataclass(frozen=True)
class Metric:
    """A metric of pairs.

    Attributes:
        key: Its key in the records; ``KEY_initial`` is its value on the first image.
        title: Its name in heads of tables.
        scale: The factor by which values are shown.
        unit: The unit behind a value.
        difference_unit: The unit behind a difference.
        digits: How many decimals are shown.
        optimised: Whether the run's objective used the same network; the metric is then no evidence of quality.
        direction: 1 if higher is better, -1 if lower is better, 0 if neither.
    """

    key: str
    title: str
    scale: float = 1.0
    unit: str = ""
    difference_unit: str = ""
    digits: int = 1
    optimised: bool = False
    direction: int = 1

    @property
    def initial(self) -> str:
        """The key of the metric's value on the first image."""
        return self.key + INITIAL

    @property
    def name(self) -> str:
        """The title, marked if the metric was optimised against."""
        return f"{self.title} (optimised against)" if self.optimised else self.title

    @property
    def judges(self) -> bool:
        """Whether the metric is evidence of quality: it has a direction, and no objective used its network."""
        return not self.optimised and self.direction != 0


SCENE = Metric("scene_accuracy", "Scene accuracy", 100.0, " %", " pp", 1)


def shown_metrics(
    names: Iterable[str],
    configs: Iterable[Mapping[str, Any]] = (),
    descriptions: Mapping[str, Mapping[str, Any]] | None = None,
    networks: Iterable[Mapping[str, Any]] = (),
) -> list[Metric]:
    """Return a report's metrics in order: judges by kind, scene accuracy, those without direction, optimised ones.

    Args:
        names: The keys of metrics in the records.
        configs: The runs' configurations, which tell the judges that an objective used.
        descriptions: The run folders' own descriptions of their metrics, by name (`RunFolder.descriptions`). Metrics
            that none of them describes are shown by a table of the metrics that sgool has had.
        networks: For each of the configurations the record of its run folder (`RunFolder.networks`); empty: no records.
    """
    present = {name for name in names if not name.endswith(INITIAL) and not name.startswith("scene/")}
    described = descriptions or {}
    made_by: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = list(zip_longest(configs, networks, fillvalue={}))
    optimised = set().union(*(optimised_against(config, record) for config, record in made_by))
    if not made_by:
        optimised = {_GUIDE}  # without a configuration nobody knows what the guide was used for
    found = []
    for name in present:
        look = _look(name, described.get(name))
        if look is not None:
            judge, _, kind = name.rpartition("/")
            found.append((look, replace(look.metric, optimised=(judge or kind) in optimised)))
    # Metrics of the same place are sorted by their keys.
    found.sort(key=lambda pair: (pair[1].optimised, pair[1].direction == 0, pair[0].place, pair[1].key))
    return [metric for _, metric in found]


@dataclass(frozen=True)
class _Look:
    """A metric, not yet marked as optimised, and its place among the others: smaller numbers first."""

    metric: Metric
    place: int


def _look(name: str, description: Mapping[str, Any] | None) -> _Look | None:
    """Return how a metric is shown; None for a number of a record that is no score."""
    if description is not None:
        known = {key: description[key] for key in _FOR_DISPLAY if key in description}
        higher_is_better = description.get("higher_is_better")
        direction = 0 if higher_is_better is None else 1 if higher_is_better else -1
        title = _full_title(name, str(description.get("title") or name.rpartition("/")[2].replace("_", " ")))
        return _Look(Metric(name, title, direction=direction, **known), description.get("place", _LAST))
    kind = name.rpartition("/")[2]
    if name == SCENE.key:
        return _Look(SCENE, _LAST)
    if kind in _HIDDEN or ("/" not in name and kind not in _OLDER_RUNS):
        return None
    # A kind without a description is shown too, but whether more of it is better is unknown.
    title, digits, direction, place = _OLDER_RUNS.get(kind, (kind.replace("_", " "), 2, 0, _LAST))
    return _Look(Metric(name, _full_title(name, title), digits=digits, direction=direction), place)


def _full_title(name: str, title: str) -> str:
    """Join the judge's name and the metric's title, without a word twice."""
    judge, _, kind = name.rpartition("/")
    # A judge called "perceptual" has a perceptual distance, not a perceptual perceptual one.
    said = judge.lower() in (kind, title.lower()) or (len(judge) > 3 and title.startswith(judge.lower().rstrip("s")))
    words = f"{judge} {title}" if judge and not said else title
    text = words.replace("_", " ").replace("/", " ")
    return text[:1].upper() + text[1:]


def scene_parts(names: Iterable[str]) -> list[str]:
    """Return the scene reader's answers among metric keys: ``objects``, ``colours``, ``count``, ``relation``, ..."""
    found = {name.removeprefix("scene/") for name in names if name.startswith("scene/") and not name.endswith(INITIAL)}
    usual = ["objects", "colours", "count", "relation"]
    return [part for part in usual if part in found] + sorted(found - set(usual))


def judge_networks(config: Mapping[str, Any]) -> dict[str, str]:
    """Map the judges' names to their networks, as far as a configuration tells.

    It looks for ``judge: NETWORK`` and ``judges: {NAME: NETWORK}`` at any depth. A network is a name or path, or a
    mapping with keys such as ``model`` and ``pretrained``.
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
    """Return the networks that a configuration's objective uses: those below ``objective``, else any ``guide``."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for path, node in _nodes(config):
        # A mapping names a network by all its naming keys together: its `model` alone would be another one.
        below = "objective" in path and (isinstance(node, Mapping) or path[-1] == "clip")
        network = _network(node) if below or path[-1] == _GUIDE else None
        if network is not None:
            found[below].add(network)
    return found[True] or found[False]


def _nodes(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Go through all values of a configuration, also in lists, each with the keys that lead to it."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield (*path, str(key)), value
            yield from _nodes(value, (*path, str(key)))
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _nodes(value, path)


def _network(node: Any) -> str | None:
    """Return a network's identity as text: the name itself, or the naming keys of a mapping."""
    if isinstance(node, str):
        return node
    if isinstance(node, Mapping):
        parts = [str(node[key]) for key in _NETWORK_KEYS if isinstance(node.get(key), str)]
        return " ".join(parts) or None
    return None
