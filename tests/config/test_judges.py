"""Judges whose weights an objective used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sgool.config.judges import optimised_against, saliency_judges
from sgool.run.config import load_config, to_plain


def config(*overrides: str) -> dict[str, Any]:
    return to_plain(load_config(overrides))


H14 = {"model": "ViT-H-14", "pretrained": "laion2b_s32b_b79k"}
HPS = {"model": "ViT-H-14", "pretrained": "weights/HPS_v2.1_compressed.pt"}
L14 = {"model": "ViT-L-14-quickgelu", "pretrained": "openai"}
GUIDE = {"model": "emoji_world/guide", "pretrained": None}


def made_of(judge: Any, *terms: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A configuration with one judge and a few terms."""
    return {
        "methods": ["vanilla", "doodl"],
        "method": {"vanilla": {"kind": "vanilla"}, "doodl": {"kind": "optimize", "use_saliency": False}},
        "models": {"guide": GUIDE, "judges": {"judge": judge}},
        "objective": {"terms": {f"t{index}": {"weight": 1.0, **term} for index, term in enumerate(terms)}},
        "optimization": {"early_stop": {"term": None}},
        "saliency": {"detector": {"name": "spectral_residual"}},
        **changes,
    }


REWARD = {"type": "image_reward", "checkpoint": "ImageReward.pt", "med_config": None, "tokenizer": "bert"}
PICK = {"type": "pickscore", "model": "yuvalkirstain/PickScore_v1", "processor": "p"}
LOCAL = {"type": "perceptual", "network": "local", "checkpoint": "emoji_world/classifier"}
LIKE = {"type": "image", "clip": H14, "images": None}
HEAD = {"type": "aesthetic", "clip": L14, "checkpoint": "head.pth"}


@pytest.mark.parametrize(
    ("judge", "term", "shared"),
    [
        # CLIPs by model and tag, however they are spelled
        (H14, {"type": "text_alignment", "clip": H14}, True),
        ("emoji_world/guide", {"clip": GUIDE}, True),  # as the first run folders have it: no type
        (H14, {"type": "text_alignment", "clip": {**H14, "pretrained": "laion400m"}}, False),
        (H14, {"type": "image_alignment", "clip": H14, "images": ["a.png"]}, True),
        ({"model": "hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "pretrained": None},
         {"type": "text_alignment", "clip": H14}, True),
        ({"model": "ViT-L/14", "pretrained": "openai"}, {"type": "text_alignment", "clip": L14}, True),
        # a tuned CLIP by its file: neither the untuned one, nor another file
        (HPS, {"type": "hps", "clip": HPS}, True),
        ({"type": "hps", "clip": HPS}, {"type": "hps", "clip": HPS}, True),
        ({"type": "hps", "clip": HPS},
         {"type": "hps", "clip": {**HPS, "pretrained": "./weights/HPS_v2.1_compressed.pt"}}, True),
        ({"type": "hps", "clip": HPS}, {"type": "hps", "clip": {**HPS, "pretrained": "HPS_v2_compressed.pt"}}, False),
        ({"type": "hps", "clip": HPS}, {"type": "text_alignment", "clip": H14}, False),
        # the other scorers
        (PICK, {**PICK, "goal": "maximize"}, True),
        (PICK, {**PICK, "model": "other/PickScore"}, False),
        (REWARD, {**REWARD, "goal": "maximize"}, True),
        (REWARD, {**REWARD, "checkpoint": "other.pt"}, False),
        (HEAD, {**HEAD, "goal": 7}, True),
        (HEAD, {"type": "text_alignment", "clip": L14}, True),  # the CLIP below the head
        ({"model": "ViT-L-14", "pretrained": "openai"}, HEAD, True),
        (HEAD, {**HEAD, "clip": H14}, True),  # the same head on another tower still is the same head
        (HEAD, {**HEAD, "clip": H14, "checkpoint": "other.pth"}, False),
        # images
        (LIKE, {"type": "image_alignment", "clip": H14, "images": "a.png"}, True),
        (LIKE, {"type": "image_alignment", "clip": L14, "images": "a.png"}, False),
        (LOCAL, {"type": "classifier", "source": "local", "model": None, "checkpoint": "emoji_world/classifier"}, True),
        (LOCAL, {"type": "classifier", "source": "timm", "model": "resnet50.a1_in1k", "checkpoint": None}, False),
        ({"type": "perceptual", "network": "alex", "checkpoint": None},
         {"type": "classifier", "source": "torchvision", "model": "alexnet", "checkpoint": "alexnet.pth"}, True),
        ({"type": "pixels"}, {"type": "sharpness", "goal": "maximize"}, False),
        ({"type": "latents"}, {"type": "text_alignment", "clip": H14}, False),
        # a user's own term: its arguments may name the network
        (H14, {"type": "custom", "_target_": "a.b", "arguments": {"towers": [{"clip": H14}]}}, True),
        (REWARD, {"type": "custom", "_target_": "a.b", "arguments": {"weights": "ImageReward.pt"}}, True),
        (H14, {"type": "custom", "_target_": "a.b", "arguments": {"size": 3}}, False),
        (H14, {"type": "black_box", "function": "a.b"}, False),
    ],
)  # fmt: skip
def test_a_judge_of_every_type_that_shares_weights(judge: Any, term: dict[str, Any], shared: bool) -> None:
    found = optimised_against(made_of(judge, {"type": "sharpness", "goal": "maximize"}, term))
    assert ("judge" in found) == shared


def test_any_member_of_an_ensemble_counts(tmp_path: Path) -> None:
    terms = [{"type": "text_alignment", "clip": clip} for clip in (L14, H14, GUIDE)]
    assert optimised_against(made_of(H14, *terms)) == {"judge", "guide"}
    assert optimised_against(made_of(H14, *terms[:1])) == set()


def test_one_folder_has_several_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path)
    names = ["./clip", "clip", f"local-dir:{tmp_path}/clip", str(tmp_path / "clip")]
    term = {"type": "text_alignment", "clip": {"model": names[0], "pretrained": None}}
    for name in names:
        assert optimised_against(made_of({"model": name, "pretrained": None}, term)) == {"judge"}


def test_the_guide_is_marked_only_where_it_guided() -> None:
    assert optimised_against(made_of(H14, {"type": "text_alignment", "clip": GUIDE})) == {"guide"}
    assert optimised_against(made_of(H14, {"type": "text_alignment", "clip": L14})) == set()


def test_vanilla_alone_optimises_nothing() -> None:
    made = made_of(GUIDE, {"type": "text_alignment", "clip": GUIDE})
    assert optimised_against(made) == {"judge", "guide"}
    assert optimised_against({**made, "methods": ["vanilla"]}) == set()


def test_a_term_without_weight_counts_only_where_it_stops() -> None:
    idle = {"type": "text_alignment", "clip": H14, "weight": 0}
    made = made_of(H14, {"type": "sharpness", "goal": "maximize"}, idle)
    assert optimised_against(made) == set()
    assert optimised_against({**made, "optimization": {"early_stop": {"term": "t1"}}}) == {"judge"}
    own = {"doodl": {"kind": "optimize", "optimization": {"early_stop": {"term": "t1"}}}}
    assert optimised_against({**made, "method": {**made["method"], **own}}) == {"judge"}


# --- by the run folder's record of fingerprints ---------------------------------------------------------------------

TEXT = {"type": "text_alignment", "clip": GUIDE}


def record(judges: dict[str, list[str]], **objectives: dict[str, list[str]]) -> dict[str, Any]:
    return {"judges": judges, "objectives": {"vanilla": {}, **objectives}}


def test_weights_decide_and_not_the_names_that_they_came_from() -> None:
    copied = made_of({"model": "/elsewhere/a_copy", "pretrained": None}, TEXT)
    assert optimised_against(copied) == {"guide"}
    told = record({"judge": ["aa"], "guide": ["aa"]}, doodl={"t0": ["aa"]})
    assert optimised_against(copied, told) == {"judge", "guide"}
    # One name for two networks: somebody put other weights into the folder since.
    same = made_of(GUIDE, TEXT)
    assert optimised_against(same) == {"judge", "guide"}
    assert optimised_against(same, record({"judge": ["bb"], "guide": ["aa"]}, doodl={"t0": ["aa"]})) == {"guide"}


def test_any_network_of_a_judge_counts_and_any_method_s_objective() -> None:
    made = made_of(HEAD, TEXT)
    judges = {"judge": ["head", "clip"], "guide": ["aa"]}
    assert optimised_against(made, record(judges, doodl={"t0": ["zz"], "t1": ["clip"]})) == {"judge"}
    assert optimised_against(made, record(judges, doodl={"t0": ["zz"]}, earlier={"t": ["head"]})) == {"judge"}
    assert optimised_against(made, record(judges, doodl={"t0": ["zz"]})) == set()


def test_what_the_record_does_not_know_is_found_by_names() -> None:
    own = {"type": "custom", "_target_": "a.b", "arguments": {"towers": [{"clip": H14}]}}
    made = made_of(H14, TEXT, own)
    judges = {"judge": ["jj"], "guide": ["aa"]}
    # A term of which no network was found, as a user's function that loads one when it is first called.
    assert optimised_against(made, record(judges, doodl={"t0": ["zz"], "t1": []})) == {"judge"}
    assert optimised_against(made, record(judges, doodl={"t0": ["zz"], "t1": ["yy"]})) == set()
    # A judge that came later, and has not scored yet.
    assert optimised_against(made, record({"guide": ["aa"]}, doodl={"t0": ["zz"], "t1": ["yy"]})) == {"judge"}
    # A method that has not begun, an older run.
    assert optimised_against(made, record(judges)) == {"judge", "guide"} == optimised_against(made, {})
    assert optimised_against(made, {"judges": judges}) == {"judge", "guide"}


def test_a_network_that_drew_saliency_maps_is_said_apart() -> None:
    detector = {"detector": {"name": "grad_cam", "clip": H14, "layer": None, "query": None}}
    looks = {"sgool": {"kind": "optimize", "use_saliency": True}}
    made = made_of(H14, {"type": "text_alignment", "clip": GUIDE}, saliency=detector)
    assert (optimised_against(made), saliency_judges(made)) == ({"guide"}, set())  # doodl looks at no map
    made = {**made, "methods": ["sgool"], "method": looks}
    assert (optimised_against(made), saliency_judges(made)) == ({"guide"}, {"judge"})


def test_shipped_defaults_have_an_independent_judge() -> None:
    assert optimised_against(config()) == {"guide"}
    assert optimised_against(config("+models.judges.same=emoji_world/guide")) == {"guide", "same"}
    assert optimised_against({}) == set() == saliency_judges({})
