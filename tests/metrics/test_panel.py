from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sgool.metrics import ClipScore, JudgePanel
from sgool.metrics.panel import aggregate
from sgool.metrics.reader import Detection, SceneReading
from sgool.models.clip import ClipTower
from sgool.types import PromptSeed

CAT_SCENE = {"objects": [{"noun": "cat"}], "background": "white"}
PAIRS = [
    PromptSeed("a cat", 0, metadata={"scene": CAT_SCENE}),
    PromptSeed("two trees", 1, metadata={"scene": {}}),
    PromptSeed("a dog", 2, metadata={"scene": {"objects": [{"noun": "dog"}]}}),
]


class _AlwaysACat:
    def read(self, images: torch.Tensor) -> list[SceneReading]:
        return [SceneReading((Detection("cat", "natural", 32, 32, 0.9),), "white") for _ in images]


def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_every_judge_and_the_scene(clip_tower: ClipTower, wordpiece_tower: ClipTower) -> None:
    reader: Any = _AlwaysACat()
    rows = JudgePanel({"judge": clip_tower, "other": wordpiece_tower}, reader).judge(None, images(), PAIRS)
    prompts = [pair.prompt for pair in PAIRS]
    for name, tower in (("judge", clip_tower), ("other", wordpiece_tower)):
        expected = ClipScore(tower).score(images(), prompts).tolist()
        assert [row[f"{name}/clip_score"] for row in rows] == pytest.approx(expected, rel=1e-6)
    assert rows[0]["scene_accuracy"] == 1.0 and rows[0]["scene/background"] == 1.0
    assert not any(name.startswith("scene") for name in rows[1])  # no scene, no verdict
    assert rows[2]["scene_accuracy"] == 0.0 and rows[2]["scene/objects"] == 0.0 and "scene/background" not in rows[2]


@pytest.mark.parametrize("scene", ["in the park", 3, ["cat"], {"n": 1}, {"objects": ["cat"]}])
def test_a_scene_of_the_user_s_own_gets_no_verdict(scene: Any) -> None:
    reader: Any = _AlwaysACat()
    assert JudgePanel({}, reader).judge(None, images()[:1], [PromptSeed("a", 0, metadata={"scene": scene})]) == [{}]


def test_without_reader_or_judges(clip_tower: ClipTower) -> None:
    assert set(JudgePanel({"judge": clip_tower}).judge(None, images(), PAIRS)[0]) == {"judge/clip_score"}
    assert JudgePanel({}).judge(None, images(), PAIRS) == [{}, {}, {}]


def test_aggregate_is_the_mean_over_the_rows_that_have_it() -> None:
    rows = [{"a": 1.0, "b": 0.1}, {"a": 2.0}, {"a": 6.0, "b": 0.3}]
    assert aggregate(rows) == {"a": pytest.approx(3.0), "b": pytest.approx(0.2)}
    assert aggregate([]) == {} and aggregate([{}]) == {}


def test_aggregate_keeps_float64() -> None:
    assert aggregate([{"a": 100.123456789}])["a"] == pytest.approx(100.123456789, rel=1e-12)
    assert not math.isnan(aggregate([{"a": 0.0}])["a"])
