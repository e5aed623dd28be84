"""Judges in the configuration: short forms, names that are taken, missing files."""

from __future__ import annotations

from typing import Any

import pytest

from sgool.errors import ConfigError
from sgool.metrics.build import checked_judges
from sgool.run.config import load_config, to_plain

PANDA = "emoji_world/references/panda.png"


def config(*overrides: str) -> dict[str, Any]:
    return to_plain(load_config(overrides))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("emoji_world/judge", {"model": "emoji_world/judge", "pretrained": None}),
        ("{model: ViT-B-32, pretrained: openai}", {"model": "ViT-B-32", "pretrained": "openai"}),
        ("{type: clip, model: ViT-B-32, pretrained: openai}", {"model": "ViT-B-32", "pretrained": "openai"}),
        ("{type: hps, clip: emoji_world/judge}",
         {"type": "hps", "clip": {"model": "emoji_world/judge", "pretrained": None}}),
        ("{type: pixels}", {"type": "pixels"}),
        ("{type: perceptual, network: alex}", {"type": "perceptual", "network": "alex", "checkpoint": None}),
        (f"{{type: image, clip: emoji_world/judge, images: {PANDA}}}",
         {"type": "image", "clip": {"model": "emoji_world/judge", "pretrained": None}, "images": PANDA}),
    ],
)  # fmt: skip
def test_short_forms_are_written_in_full(written: str, expected: dict[str, Any]) -> None:
    assert config(f"+models.judges.second={written}")["models"]["judges"]["second"] == expected


def test_a_judge_that_was_written_before_there_were_types_is_the_same_judge() -> None:
    assert config()["models"]["judges"] == {"judge": {"model": "emoji_world/judge", "pretrained": None}}


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("{type: foo}", r"`models.judges.x.type`: expected clip, hps, .* or latents, got 'foo'"),
        ("{type: hps, clip: {model: ViT-H-14, pretrained: no.pt}}",
         r"`models.judges.x.clip.pretrained`: there is no file 'no.pt' .*HPS_v2.1.*huggingface.co/xswu/HPSv2"),
        ("{type: image_reward, checkpoint: no.pt}",
         r"`models.judges.x.checkpoint`: there is no file 'no.pt' .*ImageReward.pt, published at https"),
        ("{type: aesthetic, clip: emoji_world/judge, checkpoint: no.pth}",
         r"`models.judges.x.checkpoint`: there is no file 'no.pth' .*sac\+logos.*published at"),
        ("{type: image, clip: emoji_world/judge, images: [no.png]}",
         r"`models.judges.x.images`: there is no file 'no.png' .*Expected a reference image"),
        ("{type: image, clip: emoji_world/judge}",
         r"`models.judges.x.images`: null stands for .* image_alignment terms, and it has no such term"),
        ("{type: perceptual, network: local}", r"`models.judges.x.checkpoint`: network=local needs one"),
        ("{type: perceptual, network: local, checkpoint: nowhere}",
         r"`models.judges.x.checkpoint`: expected a classifier's folder .* got 'nowhere'"),
        ("{type: perceptual, network: vgg, checkpoint: emoji_world/classifier}",
         r"`models.judges.x.checkpoint`: expected null with network=vgg"),
        ("{type: pixels, window: 3}", r"unknown key `models.judges.x.window`"),
        ("{model: a}", r"`models.judges.x.pretrained`: is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_judge(judge: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([f"+models.judges.x={judge}"])


@pytest.mark.parametrize("name", ["guide", "scene"])
def test_names_that_mean_something_else(name: str) -> None:
    with pytest.raises(
        ConfigError,
        match=f"`models.judges.{name}`: choose another name; it stands for .*models.guide"
        if name == "guide"
        else f"`models.judges.{name}`: choose another name; .*scene reader",
    ):
        load_config([f"+models.judges.{name}=emoji_world/judge"])


def test_reference_images_may_be_those_of_the_objective() -> None:
    made = config("objective=image_alignment", f"objective.terms.image_alignment.images=[{PANDA}]", "judges=image")
    assert made["models"]["judges"]["likeness"]["images"] is None


def test_judges_of_a_run_folder_are_checked_and_completed() -> None:
    made = config()
    made["models"]["judges"] = {"a": "emoji_world/judge", "b": {"type": "image_reward", "checkpoint": "no.pt"}}
    with pytest.raises(ConfigError, match=r"`models.judges.b.checkpoint`: there is no file"):
        checked_judges(made)
    made["models"]["judges"]["b"] = {"type": "image_reward"}
    with pytest.raises(ConfigError, match=r"`models.judges.b.checkpoint`: is missing"):
        checked_judges(made)
    del made["models"]["judges"]["b"]
    assert checked_judges(made) == {"a": {"model": "emoji_world/judge", "pretrained": None}}
