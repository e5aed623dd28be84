"""Which judges count as independent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sgool.metrics import (
    ClipScore,
    ImageSimilarity,
    LatentNorm,
    Lpips,
    PerceptualDistance,
    PreferenceScore,
    Psnr,
    SceneAccuracy,
    Ssim,
)  # fmt: skip
from sgool.report.load import load_runs, to_frame
from sgool.report.metrics import judge_networks, objective_networks, scene_parts, shown_metrics
from sgool.report.stats import summary_rows
from tests.fake_run import METHODS, fake_config, make_fake_run

EMBEDDED = {"model": "emoji_world/guide", "pretrained": None}
KEYS = ["guide/clip_score", "guide/clip_score_initial", "judge/clip_score", "judge/clip_score_initial", "seed"]


def test_order_and_marks() -> None:
    shown = shown_metrics([*KEYS, "scene_accuracy", "b_32/clip_score"], [fake_config()])
    assert [(metric.key, metric.optimised) for metric in shown] == [
        ("b_32/clip_score", False),
        ("judge/clip_score", False),
        ("scene_accuracy", False),
        ("guide/clip_score", True),
    ]
    assert [metric.title for metric in shown][:2] == ["B 32 CLIP score", "Judge CLIP score"]


@pytest.mark.parametrize(
    ("judge", "optimised"),
    [
        (EMBEDDED, True),
        ("emoji_world/guide", True),
        ({"model": "emoji_world/judge", "pretrained": None}, False),
        ({"model": "emoji_world/guide", "pretrained": "other"}, False),
    ],
)
def test_a_judge_that_the_objective_used_is_marked(judge: object, optimised: bool) -> None:
    config = fake_config(models={"guide": EMBEDDED, "judges": {"judge": judge}})
    marks = {metric.key: metric.optimised for metric in shown_metrics(KEYS, [fake_config(), config])}
    assert marks == {"judge/clip_score": optimised, "guide/clip_score": True}


def test_networks_of_a_configuration() -> None:
    config = fake_config()
    assert judge_networks(config) == {"judge": "emoji_world/judge"}
    assert objective_networks(config) == {"emoji_world/guide"}
    ensemble = {"objective": {"terms": {"a": {"clip": "one"}, "b": {"clip": {"model": "two", "pretrained": "tag"}}}}}
    assert objective_networks(ensemble | {"models": {"guide": "unused"}}) == {"one", "two tag"}
    assert objective_networks({"models": {"guide": "used"}}) == {"used"}
    assert judge_networks({}) == {} == {name: None for name in objective_networks({})}


def test_scene_parts_in_the_usual_order() -> None:
    names = [
        "scene/relation",
        "scene/background",
        "scene/objects",
        "scene/objects_initial",
        "scene_accuracy",
        "scene/count",
    ]
    assert scene_parts(names) == ["objects", "count", "relation", "background"]


def test_kinds_and_directions() -> None:
    names = [
        "a/lpips",
        "latent_norm",
        "b/image_reward",
        "hps/hps",
        "b/odd_score",
        "objective",
        "judge/truncated",
        "seed",
    ]
    found = {metric.key: (metric.title, metric.direction, metric.judges) for metric in shown_metrics(names)}
    assert found == {
        "hps/hps": ("HPS", 1, True),
        "b/image_reward": ("B ImageReward", 1, True),
        "a/lpips": ("A LPIPS to the first image", 0, False),
        "latent_norm": ("Latent norm against the first", 0, False),
        "b/odd_score": ("B odd score", 0, False),
    }


def test_a_run_folder_says_itself_how_its_metrics_are_shown() -> None:
    described: dict[str, dict[str, Any]] = {
        "mine/fuzz": {"title": "fuzziness", "higher_is_better": False, "digits": 4, "unit": " px", "place": 5},
        "hps/hps": {"title": "HPS", "higher_is_better": None},
        "scene_accuracy": {"title": "Scene accuracy", "higher_is_better": True, "scale": 100.0, "unit": " %"},
        "not/there": {"title": "not there"},
    }
    names = ["scene_accuracy", "hps/hps", "a/clip_score", "mine/fuzz", "mine/fuzz_initial"]
    clip, fuzz, scene, hps = shown_metrics(names, [fake_config()], described)
    assert (fuzz.title, fuzz.direction, fuzz.digits, fuzz.unit) == ("Mine fuzziness", -1, 4, " px")
    assert (hps.title, hps.direction, hps.judges) == ("HPS", 0, False)
    assert (scene.title, scene.scale, scene.unit) == ("Scene accuracy", 100.0, " %")
    assert (clip.title, clip.direction) == ("A CLIP score", 1)  # an older run's beside it


def test_metrics_say_what_the_table_for_older_runs_says() -> None:
    """A run that is made anew looks as before."""
    preferences = [PreferenceScore(lambda: None, kind) for kind in ("hps", "pickscore", "image_reward", "aesthetic")]  # type: ignore[arg-type]
    kinds = [ClipScore, ImageSimilarity, Lpips, PerceptualDistance, Psnr, Ssim, LatentNorm, SceneAccuracy]
    # Without their networks, which say nothing about a title.
    found = [*preferences, *(kind.__new__(kind) for kind in kinds)]
    described = {f"j/{metric.key}".replace("j/scene", "scene"): metric.describe() for metric in found}
    assert len(described) == 12
    assert shown_metrics(described, (), described) == shown_metrics(described)


def test_a_record_of_networks_marks_judges() -> None:
    config = fake_config(methods=("doodl",))
    told = {"judges": {"judge": ["aa"], "guide": ["bb"]}, "objectives": {"doodl": {"text_alignment": ["aa"]}}}
    marks = {metric.key: metric.optimised for metric in shown_metrics(KEYS, [config], None, [told])}
    assert marks == {"judge/clip_score": True, "guide/clip_score": False}
    # Each run by its own record: another run's judge of that name is another network.
    marks = {metric.key: metric.optimised for metric in shown_metrics(KEYS, [config, config], None, [told, {}])}
    assert marks == {"judge/clip_score": True, "guide/clip_score": True}


def test_the_mark_goes_with_the_name() -> None:
    (metric,) = shown_metrics(["guide/clip_score"])
    assert (metric.name, metric.judges) == ("Guide CLIP score (optimised against)", False)


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("perceptual/perceptual_distance", "Perceptual distance to the first image"),
        ("latents/latent_norm", "Latent norm against the first"),
        ("image/image_similarity", "Image similarity"),
        ("taste/aesthetic", "Taste aesthetic score"),
        ("c/clip_score", "C CLIP score"),  # a letter that the title begins with, too, is still a name
    ],
)
def test_titles_say_nothing_twice(key: str, title: str) -> None:
    assert [metric.title for metric in shown_metrics([key], [fake_config()])] == [title]


def test_a_report_reads_what_the_run_folder_says(tmp_path: Path) -> None:
    folder = make_fake_run(tmp_path / "run")
    folder.describe_metrics({"judge/clip_score": {"title": "likeness\x00", "higher_is_better": False}})
    folder.record_judges({"judge": ["aa"], "guide": ["bb"]})
    for method in METHODS:
        folder.record_objective(method, {} if method == "vanilla" else {"text_alignment": ["aa"]})
    (run,) = load_runs([folder.path])
    told = (run.descriptions, [run.networks])
    found = {metric.key: metric for metric in shown_metrics(to_frame([run]).columns, run.configs, *told)}
    judge = found["judge/clip_score"]
    assert (judge.title, judge.direction, judge.optimised) == ("Judge likeness\ufffd", -1, True)
    assert not found["guide/clip_score"].optimised
    # The terminal's table shows no judge that was optimised against.
    rows = summary_rows(run.records, run.configs, run.descriptions, run.networks)
    assert {row["judge"] for row in rows} == {None}
