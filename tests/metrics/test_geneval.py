"""GenEval's rules on hand-worked cases, and the judge over tiny detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.metrics import GenEval, JudgePanel, ObjectChecker
from sgool.metrics.build import build_judges
from sgool.metrics.geneval_rules import COLOURS, TAGS, GenEvalSettings, Wanted, counted, faults, relations
from sgool.models.clip import load_clip
from sgool.models.detector import FoundObject, load_detector
from sgool.models.networks import Networks
from sgool.types import PromptSeed
from tests.tiny_detectors import save_detector

PUBLISHED = GenEvalSettings()


def at(left: float, top: float, width: float = 10, height: float = 10, score: float = 0.95) -> FoundObject:
    return FoundObject((left, top, left + width, top + height), score)


def wanted(include: list[dict[str, Any]], exclude: list[dict[str, Any]] | None = None, tag: str = "x") -> Wanted:
    return Wanted.of(PromptSeed("p", metadata={"include": include, "exclude": exclude or [], "tag": tag}), "j")


def red(objects: Any, name: str) -> list[str]:
    return ["red"] * len(objects)


def test_numbers_of_objects() -> None:
    two = wanted([{"class": "dog", "count": 2}], [{"class": "dog", "count": 3}], "counting")
    for number, expected in (
        (1, ["expected at least 2 dog, found 1"]),
        (2, []),
        (3, ["expected fewer than 3 dog, found 3"]),
        (0, ["expected at least 2 dog, found 0"]),
    ):
        assert faults(two, {"dog": [at(0, 0)] * number}, red, PUBLISHED) == expected
    # Without an `exclude`, more than the number are correct; other classes do not matter.
    one = wanted([{"class": "dog", "count": 1}])
    assert faults(one, {"dog": [at(0, 0)] * 5, "cat": [at(0, 0)]}, red, PUBLISHED) == []
    both = wanted([{"class": "dog", "count": 1}, {"class": "cat", "count": 1}])
    assert faults(both, {"dog": [at(0, 0)]}, red, PUBLISHED) == ["expected at least 1 cat, found 0"]


def test_colours_are_those_of_the_most_confident_objects() -> None:
    bench = wanted([{"class": "bench", "count": 1, "color": "red"}])
    best, other = at(0, 0, score=0.9), at(30, 0, score=0.5)
    colours = {id(best): "red", id(other): "blue"}

    def named(objects: Any, name: str) -> list[str]:
        return [colours[id(one)] for one in objects]

    assert faults(bench, {"bench": [best, other]}, named, PUBLISHED) == []
    assert faults(bench, {"bench": [other, best]}, named, PUBLISHED) == ["expected 1 red bench, found 0"]
    two = wanted([{"class": "bench", "count": 2, "color": "red"}])
    assert faults(two, {"bench": [best, other]}, named, PUBLISHED) == ["expected 2 red bench, found 1"]
    # Too few objects: no colour is asked for.
    assert faults(two, {"bench": [best]}, named, PUBLISHED) == ["expected at least 2 bench, found 1"]
    # An object whose box is empty has none.
    assert faults(bench, {"bench": [best]}, lambda *_: [None], PUBLISHED) == ["expected 1 red bench, found 0"]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        # The other object is 10 x 10 pixels around (50, 50): centres must be more than 0.1 * (10 + 10) = 2 apart.
        (at(48, 45), set()),  # 3 right of it, of which 1 is left: 1/3 of the distance
        (at(49, 45), set()),  # 4 right, 2 left: exactly half
        (at(49.5, 45), {"right of"}),  # 4.5, 2.5: more than half
        (at(40.5, 45), {"left of"}),
        (at(45, 40.5), {"above"}),
        (at(45, 49.5), {"below"}),
        (at(65, 65), {"right of", "below"}),  # 18/sqrt(800) = 0.64 each
        (at(65, 75), {"below"}),  # 18/36.06 = 0.499, 28/36.06 = 0.78
        (at(45, 45), set()),  # the same place
        (at(47, 45), set()),  # 2: nothing is left
    ],
)
def test_relations(box: FoundObject, expected: set[str]) -> None:
    assert relations(box, at(45, 45), PUBLISHED.position_threshold) == expected


def test_positions_need_their_target() -> None:
    rule = wanted([{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}])
    dog, left, right = [at(50, 0)], [at(0, 0)], [at(90, 0)]
    assert faults(rule, {"dog": dog, "cat": left}, red, PUBLISHED) == []
    assert faults(rule, {"dog": dog, "cat": right}, red, PUBLISHED) == [
        "expected cat left of its target, found right of"
    ]
    assert faults(rule, {"dog": dog, "cat": dog}, red, PUBLISHED) == [
        "expected cat left of its target, found neither side"
    ]
    assert faults(rule, {"cat": left}, red, PUBLISHED) == [
        "expected at least 1 dog, found 0",
        "no target for cat to be left of",
    ]
    # Only the most confident object of each class is looked at.
    assert faults(rule, {"dog": dog, "cat": [*left, *right]}, red, PUBLISHED) == []
    # Every one of several objects must be there.
    two = wanted([{"class": "dog", "count": 1}, {"class": "cat", "count": 2, "position": ["left of", 0]}])
    assert len(faults(two, {"dog": dog, "cat": [*left, *right]}, red, PUBLISHED)) == 1
    # A target of the wrong colour is none.
    blue = wanted(
        [{"class": "dog", "count": 1, "color": "blue"}, {"class": "cat", "count": 1, "position": ["left of", 0]}]
    )
    assert faults(blue, {"dog": dog, "cat": left}, red, PUBLISHED) == [
        "expected 1 blue dog, found 0",
        "no target for cat to be left of",
    ]


def test_which_objects_count() -> None:
    far = [at(20 * i, 0, score=s) for i, s in enumerate((0.3, 0.31, 0.9, 0.5))]
    assert [one.score for one in counted(far, 0.3, PUBLISHED)] == [0.9, 0.5, 0.31]  # not 0.3 itself
    assert [one.score for one in counted(far, 0.3, GenEvalSettings(max_objects=2))] == [0.9, 0.5]
    # 10 x 10 pixels from 0 to 10 are 11 pixels wide in the published overlap: 11 * 6 of 2 * 121 - 66.
    pair = [at(0, 0, score=0.9), at(5, 0, score=0.8)]
    overlap = 66 / (2 * 121 - 66)
    assert len(counted(pair, 0.3, GenEvalSettings(max_overlap=overlap + 1e-9))) == 2
    assert [one.score for one in counted(pair, 0.3, GenEvalSettings(max_overlap=overlap - 1e-9))] == [0.9]
    assert len(counted([pair[0]] * 3, 0.3, PUBLISHED)) == 3  # 1 lets all count
    # An object that does not count takes no other away.
    row = [at(0, 0, score=0.9), at(5, 0, score=0.8), at(10, 0, score=0.7)]
    assert [one.score for one in counted(row, 0.3, GenEvalSettings(max_overlap=0.3))] == [0.9, 0.7]


# --- columns --------------------------------------------------------------------------------------------------------


def test_columns_of_every_form() -> None:
    include = [{"class": "dog", "count": 1.0}, {"class": "cat", "count": 1, "position": ["above", "0"], "color": None}]
    pair = PromptSeed("p", category="position", metadata={"include": include})
    rule = Wanted.of(pair, "j")
    assert (rule.tag, rule.classes, rule.exclude) == ("position", ["dog", "cat"], ())
    assert "color" not in rule.include[1]
    assert faults(rule, {"dog": [at(0, 50)], "cat": [at(0, 0)]}, red, PUBLISHED) == []
    text = PromptSeed("p", metadata={"include": '[{"class": "dog", "count": 1}]', "tag": "single_object"})
    assert Wanted.of(text, "j").classes == ["dog"]


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ("a dog", "expected a list of objects like"),
        ([{"class": "dog"}], "expected a list of objects like"),
        ([{"class": "dog", "count": -1}], "expected a list of objects like"),
        ([{"class": "dog", "count": 1, "color": "mauve"}], "expected a color of red, orange"),
        ([{"class": "dog", "count": 1, "position": ["left of", 0]}], "expected a position like"),
        ([{"class": "a", "count": 1}, {"class": "b", "count": 1, "position": ["in", 0]}], "expected a position like"),
        ([{"class": "a", "count": 1}, {"class": "b", "count": 1, "position": "above"}], "expected a position like"),
        (3, "expected a list of objects like"),
    ],
)
def test_columns_that_hold_something_else(include: Any, message: str) -> None:
    with pytest.raises(SgoolError, match=rf"`j`: the prompt 'p', column include: {message}.*, got "):
        wanted(include)


# --- the judge ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["mask2former", "owlv2"])
def detector_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("detector") / request.param, request.param)


def images(number: int = 3) -> Tensor:
    return (torch.rand(number, 3, 40, 56, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def pair(tag: str, *include: dict[str, Any], exclude: Any = ()) -> PromptSeed:
    return PromptSeed(f"a {tag}", category=tag, metadata={"include": list(include), "exclude": list(exclude)})


PAIRS = [
    pair("single_object", {"class": "dog", "count": 1}),
    pair("counting", {"class": "bench", "count": 1}, exclude=[{"class": "bench", "count": 2}]),
    pair("color_attr", {"class": "dog", "count": 1, "color": "red"}, {"class": "bench", "count": 1, "color": "blue"}),
]


def options(folder: Path, clip: Path, **changes: Any) -> dict[str, Any]:
    own = {"detector": str(folder), "clip": {"model": str(clip), "pretrained": None}}
    published = {"max_objects": 16, "max_overlap": 1.0, "position_threshold": 0.1}
    return {"type": "geneval", **own, "threshold": 0.2, "counting_threshold": 0.25, **published, **changes}


def test_the_judge_applies_the_rules(detector_folder: Path, clip_folder: Path) -> None:
    networks = Networks({"device": "cpu"})
    judges = build_judges({"j": options(detector_folder, clip_folder)}, {}, networks)
    detector, clip = load_detector(str(detector_folder)), load_clip(str(clip_folder))
    checker = ObjectChecker(detector, clip)
    panel = JudgePanel(judges)
    rows = panel.judge(None, images(), PAIRS)
    assert len(networks._shared) == 2  # one detector, one CLIP
    for row, seen, one in zip(rows, images(), PAIRS, strict=True):
        rule = Wanted.of(one, "j")
        found = detector.detect(seen, rule.classes, 0.25 if rule.tag == "counting" else 0.2)
        settings = GenEvalSettings(threshold=0.2, counting_threshold=0.25)
        objects = {name: counted(group, 0.2, settings) for name, group in found.items()}
        colours = {name: checker.colours(seen, group, name) for name, group in objects.items()}
        broken = faults(rule, objects, lambda group, name, c=colours: c[name][: len(group)], settings)
        assert row == {"j/geneval": float(not broken), f"j/geneval_{rule.tag}": float(not broken)}
    means = {name: float(metric.compute()) for name, metric in panel.named_metrics().items() if "initial" not in name}
    assert means["j/geneval"] == pytest.approx(sum(row["j/geneval"] for row in rows) / 3)
    assert (
        means["j/geneval_counting"] == rows[1]["j/geneval_counting"]
        and means["j/geneval_colors"] != means["j/geneval_colors"]
    )
    alone = [JudgePanel(judges).judge(None, images()[i : i + 1], PAIRS[i : i + 1])[0] for i in (2, 1, 0)]
    assert alone[::-1] == rows


def test_each_image_is_looked_at_once(clip_folder: Path, tmp_path: Path) -> None:
    detector = load_detector(str(save_detector(tmp_path / "d", "mask2former")))
    checker = ObjectChecker(detector, load_clip(str(clip_folder)))
    calls: list[int] = []
    detector.network.register_forward_hook(lambda *_: calls.append(1))
    JudgePanel({"j": [GenEval(checker), *(GenEval(checker, tag) for tag in TAGS)]}).judge(None, images(), PAIRS)
    assert len(calls) == 3


def test_colours_are_read_in_boxes_on_grey(clip_folder: Path, tmp_path: Path) -> None:
    clip = load_clip(str(clip_folder))
    checker = ObjectChecker(load_detector(str(save_detector(tmp_path / "d", "mask2former"))), clip)
    seen = images(1)[0]
    mask = torch.zeros(40, 56, dtype=torch.bool)
    mask[5:30, 8:20] = True
    mask[10:12, 9:15] = False
    found = [FoundObject((7.6, 4.5, 21.4, 30.0), 0.9, mask), FoundObject((2.0, 3.0, 50.0, 33.0), 0.8), at(3, 3, 0.2, 9)]
    levels = (seen * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    on_grey = np.where(mask.numpy()[..., None], levels, np.uint8(0x99))
    # Pillow rounds corners to the nearest even number where two are equally near: 4.5 is 4.
    crops = [on_grey[4:30, 8:21], levels[3:33, 2:50]]
    texts = ["a photo of a {} dog", "a photo of a {}-colored dog", "a photo of a {} object"]
    expected = []
    for crop in crops:
        embeds = clip.encode_image(clip.as_published(torch.from_numpy(crop.copy()).permute(2, 0, 1)[None] / 255))[0]
        scores = []
        for colour in COLOURS:
            mean = sum(clip.encode_text([text.format(colour)])[0] for text in texts)
            scores.append(float(embeds @ (mean / mean.norm())))  # type: ignore[union-attr, operator]
        expected.append(COLOURS[int(np.argmax(scores))])
    assert checker.colours(seen, found, "dog") == [*expected, None]
    assert Image.fromarray(levels).crop(found[0].box).size == (13, 26)


def test_pairs_are_checked_before_a_run(clip_folder: Path, tmp_path: Path) -> None:
    folder = save_detector(tmp_path / "d", "mask2former")
    panel = JudgePanel(build_judges({"j": options(folder, clip_folder)}, {}, Networks({"device": "cpu"})))
    assert panel.problems(PAIRS) == []
    bare = PromptSeed("a cat", metadata={"tag": "x"})
    zebra = pair("single_object", {"class": "zebra", "count": 1})
    assert panel.problems([bare, zebra, zebra]) == [
        "`models.judges.j`: the prompt 'a cat' has no column include or exclude, as GenEval's "
        "evaluation_metadata.jsonl has; its other columns are: tag",
        "`models.judges.j.detector`: the detector has no class 'zebra', which 'a single_object' asks for; its 3 "
        "classes are bench, dog, mouse",
    ]
    with pytest.raises(SgoolError, match="has no column include or exclude"):
        panel.judge(None, images(1), [bare])
    with pytest.raises(ValueError, match="as many prompts as images, got 2 and 1"):
        panel._metric("j/geneval").update(images(1), PAIRS[:2])


def test_a_missing_detector_is_found_before_anything_loads(clip_folder: Path, tmp_path: Path) -> None:
    networks = Networks({"device": "cpu"})
    with pytest.raises(
        ConfigError, match=r"`models.judges.j.detector`: there is no folder '.*none'.*a detector such as"
    ):
        build_judges({"j": options(tmp_path / "none", clip_folder)}, {}, networks)
    assert not networks._shared


def test_how_reports_show_it(clip_folder: Path, tmp_path: Path) -> None:
    checker = ObjectChecker(load_detector(str(save_detector(tmp_path / "d", "detr"))), load_clip(str(clip_folder)))
    shown = GenEval(checker, "color_attr").describe()
    assert (shown["title"], shown["unit"], shown["scale"], shown["higher_is_better"]) == (
        "GenEval, color attr", " %", 100.0, True
    )  # fmt: skip
    assert len(GenEval(checker).fingerprints()) == 2
