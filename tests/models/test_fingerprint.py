"""Which networks something holds, and whether two of them are one."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgool.metrics import ClipScore, ImageSimilarity, LatentNorm, PerceptualDistance, PreferenceScore
from sgool.metrics.change import classifier_maps
from sgool.models.aesthetic import AestheticPredictor
from sgool.models.classifier import load_classifier
from sgool.models.clip import ClipTower, load_clip
from sgool.models.fingerprint import fingerprint, fingerprints
from sgool.models.networks import Networks
from sgool.models.preference import HumanPreferenceScore
from sgool.models.preprocess import Preprocess
from sgool.objectives import Objective
from sgool.objectives.alignment import ImageAlignment, TextAlignment
from sgool.objectives.black_box import BlackBox
from sgool.objectives.pixels import Sharpness
from sgool.objectives.scores import Classification, Score


def test_one_network_under_two_names_and_in_wrappers(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "other name")
    tower, copy = load_clip(str(clip_folder)), load_clip(str(tmp_path / "other name"))
    wrapped = nn.Sequential(Preprocess(8, [0.5] * 3, [0.5] * 3), copy.model)
    assert fingerprint(tower) == fingerprint(copy.model) == fingerprint(wrapped) == tower.fingerprint
    with torch.no_grad():
        next(copy.model.parameters()).mul_(1.01)
    assert fingerprint(copy.model) != tower.fingerprint


def test_terms_and_judges_name_their_networks(clip_tower: ClipTower, wordpiece_tower: ClipTower) -> None:
    head = nn.Linear(wordpiece_tower.encode_text(["a"]).shape[1], 1)
    taste = AestheticPredictor(wordpiece_tower, head, "test")
    classifier = load_classifier("local", checkpoint="emoji_world/classifier")
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    clip, other = clip_tower.fingerprint, wordpiece_tower.fingerprint
    assert fingerprints(ClipScore(clip_tower)) == fingerprints(TextAlignment(clip_tower)) == {clip}
    assert fingerprints(ImageSimilarity(clip_tower, [image])) == fingerprints(ImageAlignment(clip_tower, [image]))
    assert fingerprints(Score(HumanPreferenceScore(clip_tower))) == {clip}
    assert fingerprints(Score(taste)) == fingerprints(PreferenceScore(taste, "aesthetic")) == {other, fingerprint(head)}
    of_class = fingerprints(Classification(classifier, 0))
    assert of_class == fingerprints(PerceptualDistance(classifier_maps(classifier))) == {fingerprint(classifier)}
    assert fingerprints(LatentNorm()) == fingerprints(Sharpness()) == frozenset()


def test_terms_of_weight_0_optimise_nothing(clip_tower: ClipTower, wordpiece_tower: ClipTower) -> None:
    terms: Any = {"a": TextAlignment(clip_tower), "b": TextAlignment(wordpiece_tower), "c": Sharpness()}
    found = Objective(terms, {"a": 1.0, "b": 0.0, "c": 2.0}).fingerprints()
    assert found == {"a": [clip_tower.fingerprint], "c": []}


class _Helper:
    def __init__(self, tower: ClipTower) -> None:
        self.towers = {"mine": [tower]}

    def rate(self, image: Any) -> float:
        return float(len(self.towers))


def _rate(image: Any, tower: Any = None) -> float:
    return 0.0


def test_networks_inside_a_user_s_own_function(clip_tower: ClipTower) -> None:
    def closure(image: Any) -> float:
        return float(clip_tower.input_size)

    functions = [closure, functools.partial(_rate, tower=clip_tower), _Helper(clip_tower).rate]
    assert [fingerprints(BlackBox(function)) for function in functions] == [{clip_tower.fingerprint}] * 3
    assert fingerprints(BlackBox(_rate)) == frozenset()


def test_a_term_says_itself_what_nobody_sees(clip_tower: ClipTower) -> None:
    class Own:
        def fingerprints(self) -> set[str]:
            return {"abc"}

    assert fingerprints(Own()) == {"abc"} == fingerprints([Own(), {"again": Own()}])


def test_a_term_that_keeps_the_registry_uses_not_all_of_it(clip_folder: Path) -> None:
    networks = Networks({"device": "cpu"})
    networks.clip(str(clip_folder))

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.networks, self.preprocess = (networks,), Preprocess(8, [0.5] * 3, [0.5] * 3)

    assert fingerprints(Keeps()) == frozenset()


@pytest.mark.parametrize("value", [None, "text", 3, torch.ones(2), torch, [], Tensor])
def test_what_holds_no_network(value: Any) -> None:
    assert fingerprints(value) == frozenset()
