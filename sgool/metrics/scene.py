"""Scene accuracy, the ground truth of the embedded world: whether an image shows what its prompt states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.metrics.base import MeanScore, ScoreMetric
from sgool.metrics.reader import Detection, SceneReader, SceneReading

#: Kinds of prompts, named like GenEval's tasks after the hardest statement of the scene.
KINDS = ("single_object", "two_objects", "counting", "colours", "colour_attribution", "position")
#: Statements that a scene may make, by their names in `scene_checks`.
STATEMENTS = ("objects", "count", "colours", "relation", "place", "background")
#: Places of an object: thirds of the image's width.
PLACES = ("left", "middle", "right")
#: Pixels by which one centre must lie beside (above) another to count.
_MARGIN = 6.0


def scene_checks(scene: Mapping[str, Any], reading: SceneReading) -> dict[str, float]:
    """Checks which statements of a prompt are true of a reading, 1 or 0 for each, as GenEval does.

    Args:
        scene: ``objects``: list of ``{"noun", "tint"?, "count"?}``; ``relation``: "left_right" (first object left
            of the second), "top_bottom" (first above second) or absent; ``place``: "left", "middle" or "right", the
            third of the image's width in which the centre of the one object lies, or absent; ``background``: its name
            or absent.
        reading: The scene reader's result for the image.

    Returns:
        ``objects`` (each noun is there and no other object is), ``count`` (each noun as often as stated),
        ``colours`` (each stated tint is that of every object of its noun), ``relation``, ``place`` (that of every
        object of its noun) and ``background``, without those that the scene does not state; ``all`` (every statement
        is true).

    Raises:
        SgoolError: The scene lacks ``objects``, names a noun twice, its relation is unknown or lacks an object, or its
            place is unknown, has several objects, or the reading has no ``width``.
    """
    if not scene.get("objects"):
        raise SgoolError(f"`scene`: expected a mapping with a list `objects`, got {dict(scene)!r}")
    wanted = list(scene["objects"])
    _check_scene(wanted, scene.get("relation"))
    _check_place(wanted, scene.get("place"), reading.width)
    found = {item["noun"]: [d for d in reading.detections if d.noun == item["noun"]] for item in wanted}
    nouns = {d.noun for d in reading.detections}
    checks = {
        "objects": nouns == set(found),
        "count": all(len(found[item["noun"]]) == int(item.get("count", 1)) for item in wanted),
    }
    tinted = [item for item in wanted if item.get("tint")]
    if tinted:
        checks["colours"] = all(
            bool(found[item["noun"]]) and all(d.tint == item["tint"] for d in found[item["noun"]]) for item in tinted
        )
    if scene.get("relation"):
        first, second = (found[item["noun"]] for item in wanted[:2])
        checks["relation"] = bool(first and second) and _related(first[0], second[0], scene["relation"])
    if scene.get("place"):
        seen = found[wanted[0]["noun"]]
        checks["place"] = bool(seen) and all(_place(d, reading.width) == scene["place"] for d in seen)
    if scene.get("background"):
        checks["background"] = reading.background == scene["background"]
    checks["all"] = all(checks.values())
    return {name: float(value) for name, value in checks.items()}


def _related(first: Detection, second: Detection, relation: str) -> bool:
    across, down = second.column - first.column, second.row - first.row
    if relation == "left_right":
        return across > _MARGIN and across > abs(down)
    return down > _MARGIN and down > abs(across)


def _place(detection: Detection, width: int | None) -> str:
    third = int(3 * detection.column // width)  # type: ignore[operator]  # `_check_place` has seen to it
    return PLACES[min(max(third, 0), 2)]


def _check_scene(wanted: Sequence[Mapping[str, Any]], relation: str | None) -> None:
    names = [item["noun"] for item in wanted]
    if len(set(names)) < len(names):
        raise SgoolError(f"`scene.objects`: expected each noun once (with its count), got {names}")
    if relation and relation not in ("left_right", "top_bottom"):
        raise SgoolError(f"`scene.relation`: expected left_right or top_bottom, got {relation!r}")
    if relation and len(wanted) != 2:
        raise SgoolError(f"`scene.relation`: {relation} expects two objects, got {names}")


def _check_place(wanted: Sequence[Mapping[str, Any]], place: str | None, width: int | None) -> None:
    if not place:
        return
    if place not in PLACES:
        raise SgoolError(f"`scene.place`: expected {', '.join(PLACES[:-1])} or {PLACES[-1]}, got {place!r}")
    if len(wanted) != 1 or int(wanted[0].get("count", 1)) != 1:
        raise SgoolError(f"`scene.place`: {place} expects one object, got {[dict(item) for item in wanted]}")
    if not width:
        raise SgoolError(
            "`scene.place`: expected a reading with the image's `width` in pixels, got none; a reader sets it"
        )


def scene_kind(scene: Mapping[str, Any]) -> str:
    """Returns the kind of a prompt, one of `KINDS`: by its relation or place, or else counts, colours, or number.

    The number is that of different objects.
    """
    objects = list(scene["objects"])
    if scene.get("relation") or scene.get("place"):
        return "position"
    if any(int(item.get("count", 1)) > 1 for item in objects):
        return "counting"
    if any(item.get("tint") for item in objects):
        return "colours" if len(objects) == 1 else "colour_attribution"
    return "single_object" if len(objects) == 1 else "two_objects"


class SceneAccuracy(ScoreMetric):
    """Share of images that show everything their prompt states, by a scene reader.

    ``update`` takes images (B, 3, H, W) in [0, 1] and as many scenes (None: not counted). ``compute`` returns a scalar
    in [0, 1], NaN if no scene was counted. `by_kind` returns the same for each kind of prompt.

    Attributes:
        scores: Checks of the last `update`, as `score` returns them.
    """

    key = "scene_accuracy"
    title, digits, scale, unit, difference_unit = "Scene accuracy", 1, 100.0, " %", " pp"
    higher_is_better = True
    correct: Tensor
    total: Tensor

    def __init__(self, reader: SceneReader, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._reader = (reader,)  # in a tuple, since the frozen network is no part of the metric's state
        self.add_sums("correct", len(KINDS))
        self.add_sums("total", len(KINDS))
        self.scores: list[dict[str, float]] = []

    def score(self, images: Tensor, scenes: Sequence[Mapping[str, Any] | None]) -> list[dict[str, float]]:
        """Returns for each image the result of `scene_checks`; empty if there is no scene."""
        readings = self._reader[0].read(images)
        return [scene_checks(s, r) if s else {} for s, r in zip(scenes, readings, strict=True)]

    def update(
        self,
        images: Tensor,
        scenes: Sequence[Mapping[str, Any] | None],
        counted: Sequence[bool] | None = None,
    ) -> None:
        """Scores images with their scenes, and adds those that count; ``counted`` None means that all count."""
        self.scores = self.score(images, scenes)
        correct, total = self.correct.clone(), self.total.clone()
        for scene, checks, counts in zip(scenes, self.scores, counted or [True] * len(scenes), strict=True):
            if scene and checks and counts:
                kind = KINDS.index(scene_kind(scene))
                correct[kind] += checks["all"]
                total[kind] += 1
        self.correct, self.total = correct, total

    def compute(self) -> Tensor:
        """Returns the mean accuracy over the images."""
        return self.correct.sum() / self.total.sum()

    def by_kind(self) -> dict[str, float]:
        """Returns the accuracy of each kind that was counted, and as ``overall`` their mean, which is GenEval's score.

        Only images of this process count.
        """
        seen = self.total > 0
        found = {
            kind: float(right / number)
            for kind, right, number, is_seen in zip(KINDS, self.correct, self.total, seen, strict=True)
            if is_seen
        }
        return found | ({"overall": sum(found.values()) / len(found)} if found else {})


class SceneStatement(MeanScore):
    """Share of images for which one statement of the prompt is true, among images whose prompt makes it.

    Args:
        statement: One of `STATEMENTS`.
    """

    digits, scale, unit, difference_unit = 1, 100.0, " %", " pp"
    higher_is_better = True

    def __init__(self, statement: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.key = statement  # type: ignore[misc]

    def score(self, checks: Sequence[Mapping[str, float]]) -> Tensor:
        """Returns scores (B,), 1 or 0, from B images' `scene_checks`; infinite if the prompt does not state it."""
        return torch.tensor([row.get(self.key, float("inf")) for row in checks], dtype=torch.float64)
