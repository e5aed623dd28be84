from __future__ import annotations

from typing import Any

import pytest
import torch

from sgool.errors import SgoolError
from sgool.metrics import SceneAccuracy, SceneReader, scene_checks
from sgool.metrics.reader import Detection, SceneReading
from sgool.metrics.scene import scene_kind


def reading(
    *detections: tuple[str, str, float, float], background: str = "white", width: int | None = None
) -> SceneReading:
    found = tuple(Detection(noun, tint, row, column, 0.9) for noun, tint, row, column in detections)
    return SceneReading(found, background, width)


CAT = ("cat", "natural", 32.0, 16.0)
DOG = ("dog", "red", 32.0, 48.0)


def test_all_facts_hold() -> None:
    scene = {
        "objects": [{"noun": "cat"}, {"noun": "dog", "tint": "red"}],
        "relation": "left_right",
        "background": "white",
    }
    expected = {"objects": 1.0, "count": 1.0, "colours": 1.0, "relation": 1.0, "background": 1.0, "all": 1.0}
    assert scene_checks(scene, reading(CAT, DOG)) == expected


def test_unstated_facts_are_left_out() -> None:
    assert scene_checks({"objects": [{"noun": "cat"}]}, reading(CAT)) == {"objects": 1.0, "count": 1.0, "all": 1.0}


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        ((), {"objects", "count", "colours"}),
        ((("cat", "natural", 32.0, 32.0),), {"colours"}),
        ((("cat", "red", 32.0, 32.0), ("dog", "red", 10.0, 10.0)), {"objects"}),
        ((("cat", "red", 32.0, 10.0), ("cat", "red", 32.0, 50.0)), {"count"}),
        ((("cat", "red", 32.0, 10.0), ("cat", "blue", 32.0, 50.0)), {"count", "colours"}),
        ((("dog", "red", 32.0, 32.0),), {"objects", "count", "colours"}),
    ],
)
def test_what_is_wrong_with_one_red_cat(seen: Any, wrong: set[str]) -> None:
    checks = scene_checks({"objects": [{"noun": "cat", "tint": "red"}]}, reading(*seen))
    assert {name for name, value in checks.items() if not value} == (wrong | {"all"})


@pytest.mark.parametrize(("number", "holds"), [(2, 0.0), (3, 1.0), (4, 0.0)])
def test_count(number: int, holds: float) -> None:
    seen = reading(*[("fish", "natural", 10.0 + 12 * i, 32.0) for i in range(number)])
    checks = scene_checks({"objects": [{"noun": "fish", "count": 3}]}, seen)
    assert checks == {"objects": 1.0, "count": holds, "all": holds}


@pytest.mark.parametrize(
    ("relation", "first", "second", "holds"),
    [
        ("left_right", (32, 16), (32, 48), True),
        ("left_right", (32, 48), (32, 16), False),
        ("left_right", (32, 30), (32, 36), False),  # within the margin
        ("left_right", (32, 30), (32, 37), True),
        ("left_right", (10, 16), (60, 48), False),  # rather above than left
        ("top_bottom", (16, 32), (48, 32), True),
        ("top_bottom", (48, 32), (16, 32), False),
        ("top_bottom", (30, 32), (36, 32), False),
        ("top_bottom", (16, 10), (48, 60), False),
    ],
)
def test_relations(relation: str, first: tuple[int, int], second: tuple[int, int], holds: bool) -> None:
    scene = {"objects": [{"noun": "cat"}, {"noun": "dog"}], "relation": relation}
    seen = reading(("dog", "red", *map(float, second)), ("cat", "natural", *map(float, first)))
    assert scene_checks(scene, seen)["relation"] == float(holds)


def test_relation_of_what_is_not_there() -> None:
    scene = {"objects": [{"noun": "cat"}, {"noun": "dog"}], "relation": "left_right"}
    assert scene_checks(scene, reading(CAT))["relation"] == 0.0


def test_background() -> None:
    scene = {"objects": [{"noun": "cat"}], "background": "cyan"}
    assert scene_checks(scene, reading(CAT))["background"] == 0.0
    assert scene_checks(scene, reading(CAT, background="cyan"))["all"] == 1.0


@pytest.mark.parametrize(
    ("column", "width", "place"),
    [
        (0.0, 96, "left"),
        (31.9, 96, "left"),
        (32.0, 96, "middle"),
        (63.9, 96, "middle"),
        (64.0, 96, "right"),
        (96.0, 96, "right"),
        (32.0, 128, "left"),  # the image's own thirds
    ],
)
def test_places_are_thirds_of_the_width(column: float, width: int, place: str) -> None:
    seen = reading(("cat", "natural", 5.0, column), width=width)
    scenes = [{"objects": [{"noun": "cat"}], "place": name} for name in ("left", "middle", "right")]
    assert [scene["place"] for scene in scenes if scene_checks(scene, seen)["place"]] == [place]
    assert [scene["place"] for scene in scenes if scene_checks(scene, seen)["all"]] == [place]


def test_the_place_of_what_is_not_there_or_is_there_twice() -> None:
    scene = {"objects": [{"noun": "cat"}], "place": "left"}
    assert scene_checks(scene, reading(DOG, width=64))["place"] == 0.0
    right = ("cat", "natural", 32.0, 60.0)
    assert scene_checks(scene, reading(CAT, right, width=64)) == {
        "objects": 1.0,
        "count": 0.0,
        "place": 0.0,
        "all": 0.0,
    }


def test_the_reader_says_how_wide_the_image_is() -> None:
    network = SceneReader(["cat"], ["natural"], ["white"], width=4).eval()
    assert network.read(torch.rand(2, 3, 16, 24))[1].width == 24


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ({"objects": [{"noun": "cat"}], "place": "top"}, "expected left, middle or right, got 'top'"),
        ({"objects": [{"noun": "cat"}, {"noun": "dog"}], "place": "left"}, "left expects one object, got"),
        ({"objects": [{"noun": "cat", "count": 2}], "place": "left"}, "left expects one object, got"),
        ({"objects": [{"noun": "cat"}], "place": "left"}, "expected a reading with the image's `width`"),
        ({}, "expected a mapping with a list `objects`, got {}"),
        ({"objects": [{"noun": "cat"}, {"noun": "cat"}]}, r"expected each noun once \(with its count\)"),
        (
            {"objects": [{"noun": "cat"}, {"noun": "dog"}], "relation": "inside"},
            "left_right or top_bottom, got 'inside'",
        ),
        ({"objects": [{"noun": "cat"}], "relation": "left_right"}, r"left_right expects two objects, got \['cat'\]"),
    ],
)
def test_bad_scenes(scene: dict[str, Any], message: str) -> None:
    with pytest.raises(SgoolError, match=message):
        scene_checks(scene, reading(CAT))


class _Known:
    """A reader of images that say what they show: pixel 0 is the number of a known reading."""

    def __init__(self, *readings: SceneReading) -> None:
        self._readings = readings

    def read(self, images: torch.Tensor) -> list[SceneReading]:
        return [self._readings[int(image[0, 0, 0])] for image in images]


def test_accuracy_over_batches() -> None:
    reader: Any = _Known(reading(CAT), reading(DOG))
    metric = SceneAccuracy(reader)
    images = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    cat, dog = {"objects": [{"noun": "cat"}]}, {"objects": [{"noun": "dog", "tint": "red"}]}
    metric.update(images[:1], [None])
    assert torch.isnan(metric.compute())
    metric.update(images[:2], [cat, cat])
    metric.update(images[2:], [None, dog])
    assert float(metric.compute()) == pytest.approx(2 / 3)
    assert [bool(row) for row in metric.score(images[2:], [None, dog])] == [False, True]
    assert list(metric.parameters()) == []


@pytest.mark.parametrize(
    ("scene", "kind"),
    [
        ({"objects": [{"noun": "cat"}]}, "single_object"),
        ({"objects": [{"noun": "cat"}, {"noun": "dog"}], "background": "white"}, "two_objects"),
        ({"objects": [{"noun": "cat", "tint": "red"}]}, "colours"),
        ({"objects": [{"noun": "cat", "tint": "red"}, {"noun": "dog"}]}, "colour_attribution"),
        ({"objects": [{"noun": "cat", "tint": "red", "count": 2}]}, "counting"),
        ({"objects": [{"noun": "cat", "tint": "red"}], "place": "left"}, "position"),
        ({"objects": [{"noun": "cat", "tint": "red"}, {"noun": "dog"}], "relation": "left_right"}, "position"),
    ],
)
def test_kinds_of_prompts(scene: dict[str, Any], kind: str) -> None:
    assert scene_kind(scene) == kind


def test_accuracy_per_kind_and_their_mean() -> None:
    reader: Any = _Known(reading(CAT), reading(DOG))
    metric = SceneAccuracy(reader)
    assert metric.by_kind() == {}
    cat, red = {"objects": [{"noun": "cat"}]}, {"objects": [{"noun": "dog", "tint": "red"}]}
    images = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    metric.update(images, [cat, cat, cat, red])
    # GenEval's overall score is the mean of its tasks', not of the images'.
    assert metric.by_kind() == pytest.approx({"single_object": 2 / 3, "colours": 1.0, "overall": 5 / 6})
    assert float(metric.compute()) == pytest.approx(3 / 4)
