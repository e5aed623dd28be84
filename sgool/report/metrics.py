"""Which metrics a report shows, how, and which of them somebody optimised against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgool.config.judges import optimised_against

INITIAL = "_initial"
_GUIDE = "guide"
_NETWORK_KEYS = ("clip", "model", "network", "path", "pretrained")

#: Kind of score (the end of a metric's key) -> (title, decimals, direction), in the order in which they are shown.
#: Direction: 1, higher is better; -1, lower is better; 0, neither: it says how much changed, not for the better.
_KINDS: dict[str, tuple[str, int, int]] = {
    "clip_score": ("CLIP score", 2, 1),
    "hps": ("HPS", 2, 1),
    "hps_v2": ("HPS v2", 2, 1),
    "hps_v2.1": ("HPS v2.1", 2, 1),
    "hps_v21": ("HPS v2.1", 2, 1),
    "pickscore": ("PickScore", 2, 1),
    "pick_score": ("PickScore", 2, 1),
    "image_reward": ("ImageReward", 3, 1),
    "aesthetic": ("aesthetic score", 2, 1),
    "similarity": ("image similarity", 2, 1),
    "image_similarity": ("image similarity", 2, 1),
    "lpips": ("LPIPS to the first image", 3, 0),
    "distance": ("distance to the first image", 3, 0),
    "perceptual_distance": ("perceptual distance to the first image", 3, 0),
    "psnr": ("PSNR to the first image", 1, 0),
    "ssim": ("SSIM to the first image", 3, 0),
    "latent_norm": ("latent norm against the first", 2, 0),
}
_HIDDEN = ("objective", "truncated", "non_finite")


@dataclass(frozen=True)
class Metric:
    """A metric of pairs.

    Attributes:
        key: Its key in the records; ``KEY_initial`` is its value on the first image.
        title: For table heads.
        scale: Factor for display.
        unit: Behind a value.
        difference_unit: Behind a difference.
        digits: Decimals in display.
        optimised: Whether the run's objective used the same network: then it is no evidence of quality.
        direction: 1, higher is better; -1, lower is better; 0, neither.
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
        """The key of its value on the first image."""
        return self.key + INITIAL

    @property
    def name(self) -> str:
        """The title, with the mark of one that was optimised against."""
        return f"{self.title} (optimised against)" if self.optimised else self.title

    @property
    def judges(self) -> bool:
        """Whether it is evidence of quality: a better and a worse, and no objective used it."""
        return not self.optimised and self.direction != 0


SCENE = Metric("scene_accuracy", "Scene accuracy", 100.0, " %", " pp", 1)


def shown_metrics(names: Iterable[str], configs: Iterable[Mapping[str, Any]] = ()) -> list[Metric]:
    """The metrics of a report: judges by kind, scene accuracy, what is neither good nor bad, then the optimised ones.

    Args:
        names: Keys found in the records.
        configs: The runs' configurations, to find judges that an objective used.
    """
    present = {name for name in names if not name.endswith(INITIAL) and not name.startswith("scene/")}
    configs = list(configs)
    metrics = [_metric(name, configs) for name in sorted(present) if _is_score(name)]
    if SCENE.key in present:
        metrics.append(SCENE)
    order = list(_KINDS)

    def rank(metric: Metric) -> tuple[bool, bool, int, str]:
        kind = metric.key.rpartition("/")[2]
        place = order.index(kind) if kind in order else len(order)
        return metric.optimised, metric.direction == 0, place, metric.key

    return sorted(metrics, key=rank)


def _is_score(name: str) -> bool:
    """Scores by a judge (``NAME/KIND``) and metrics of a known kind; the record's other numbers are no metrics."""
    kind = name.rpartition("/")[2]
    return name != SCENE.key and kind not in _HIDDEN and ("/" in name or kind in _KINDS)


def _metric(name: str, configs: Sequence[Mapping[str, Any]]) -> Metric:
    judge, _, kind = name.rpartition("/")
    # A kind that nobody told us about: shown, but whether more of it is better is not ours to say.
    title, digits, direction = _KINDS.get(kind, (kind.replace("_", " "), 2, 0))
    owner = judge or kind
    # A judge called "perceptual" has a perceptual distance, not a perceptual perceptual one.
    said = judge.lower() in (kind, title.lower()) or (len(judge) > 3 and title.startswith(judge.lower().rstrip("s")))
    words = f"{judge} {title}" if judge and not said else title
    text = words.replace("_", " ").replace("/", " ")
    # Without a configuration nobody knows what the guide was used for.
    optimised = (owner == _GUIDE and not configs) or any(judge_was_optimised(owner, config) for config in configs)
    return Metric(name, text[:1].upper() + text[1:], digits=digits, optimised=optimised, direction=direction)


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
