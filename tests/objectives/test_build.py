"""Every type of term from a validated configuration; files and names that are wrong, before anything loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from sgool.errors import ConfigError, SgoolError
from sgool.models.networks import Networks
from sgool.objectives import BoundObjective, ImageAlignment, Score, SeededTerm, TextAlignment, build_objective
from sgool.run.config import load_config, to_plain
from sgool.types import PromptSeed

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2))


@pytest.fixture
def networks() -> Networks:
    return Networks({"device": "cpu"})


def built(networks: Networks, *overrides: str) -> Any:
    options = to_plain(load_config(overrides))["objective"]
    return build_objective(options, networks)


def gradient(bound: BoundObjective, size: int = 40) -> Tensor:
    batch = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = bound(batch, [torch.Generator().manual_seed(i) for i in range(2)], 0)
    (found,) = torch.autograd.grad(output.loss.sum(), batch)
    assert output.loss.isfinite().all() and bound.evaluate(batch.detach()).shape == (2,)
    return found


def _linear(folder: Path, width: int) -> Path:
    torch.save(nn.Linear(width, 1).state_dict(), folder / "head.pth")
    return folder / "head.pth"


def _local(folder: Path) -> Path:
    import timm

    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "labels": ["cat", "dog"], "input_size": 32})
    )
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), folder / "model.safetensors")
    return folder


def _overrides(name: str, clip_folder: Path, tmp_path: Path) -> list[str]:
    """A preset, and what makes it run on tiny networks."""
    term = f"objective.terms.{name}"
    clip = f"{term}.clip={clip_folder}"
    if name == "image_alignment":
        Image.new("RGB", (20, 30), (200, 10, 10)).save(tmp_path / "a.png")
        return [clip, f"{term}.images={tmp_path / 'a.png'}"]
    if name == "classifier":
        folder = _local(tmp_path / "local")
        return [f"{term}.source=local", f"{term}.model=null", f"{term}.checkpoint={folder}", f"{term}.target=dog"]
    if name == "black_box":
        return [f"{term}.function=tests.objectives.test_black_box.redness"]
    checkpoint = [f"{term}.checkpoint={_linear(tmp_path, 16)}"] if name == "aesthetic" else []
    return [clip, *checkpoint] if name in ("text_alignment", "aesthetic", "hps") else []


@pytest.mark.parametrize(
    "name",
    [
        "text_alignment",
        "image_alignment",
        "classifier",
        "aesthetic",
        "hps",
        "symmetry",
        "color",
        "sharpness",
        "black_box",
    ],
)
def test_presets_reach_the_pixels(name: str, clip_folder: Path, tmp_path: Path, networks: Networks) -> None:
    objective = built(networks, f"objective={name}", *_overrides(name, clip_folder, tmp_path), "objective.crops.num=2")
    assert list(objective.terms) == [name] == [term.name for term in objective.terms.values()]
    found = gradient(objective.bind(PAIRS))
    assert (found.flatten(1).abs().sum(dim=1) > 0).all()
    assert isinstance(objective.terms[name], SeededTerm) == (name == "black_box")


@pytest.mark.parametrize("name", ["text_ensemble", "personalization"])
def test_ensembles_sum_with_their_weights(
    name: str, clip_folder: Path, wordpiece_folder: Path, tmp_path: Path, networks: Networks
) -> None:
    Image.new("RGB", (20, 20), (10, 200, 10)).save(tmp_path / "a.png")
    towers = {"b_32": clip_folder, "l_14": wordpiece_folder, "g_14": clip_folder}
    overrides = [f"objective.terms.{key}.clip={folder}" for key, folder in towers.items()]
    if name == "personalization":
        overrides.append(f"objective.terms.b_32.images=[{tmp_path / 'a.png'}]")
    objective = built(networks, f"objective={name}", *overrides)
    kind = TextAlignment if name == "text_ensemble" else ImageAlignment
    assert all(isinstance(term, kind) for term in objective.terms.values())
    assert objective.weights == {"b_32": 0.5, "l_14": 0.25, "g_14": 0.25}
    batch = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    output = objective.bind(PAIRS)(batch, [torch.Generator().manual_seed(i) for i in range(2)], 0)
    expected = 0.5 * output.terms["b_32"] + 0.25 * output.terms["l_14"] + 0.25 * output.terms["g_14"]
    torch.testing.assert_close(output.loss, expected)


def test_reference_images_are_read_as_photos_are(clip_folder: Path, tmp_path: Path, networks: Networks) -> None:
    """Grey of 16 bits too, which a plain conversion turns white; of any size."""
    halves = np.repeat(np.array([[0, 65535]], dtype=np.uint16), 4, axis=1).repeat(6, axis=0)
    Image.fromarray(halves).save(tmp_path / "deep.png")
    Image.fromarray((halves // 257).astype(np.uint8)).convert("RGB").save(tmp_path / "plain.png")
    targets = [
        built(
            networks,
            "objective=image_alignment",
            f"objective.terms.image_alignment.clip={clip_folder}",
            f"objective.terms.image_alignment.images=[{tmp_path / name}]",
        )
        .terms["image_alignment"]
        .targets(PAIRS)
        for name in ("deep.png", "plain.png")
    ]
    assert torch.equal(*targets)


def test_a_reference_image_that_cannot_be_read(clip_folder: Path, tmp_path: Path, networks: Networks) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    key = "objective.terms.image_alignment.images"
    with pytest.raises(SgoolError, match=rf"`{key}`: '.*a.png' is not an image of a format that can be"):
        built(networks, "objective=image_alignment", f"{key}=[{tmp_path / 'a.png'}]")


def test_identical_networks_are_loaded_once(clip_folder: Path, tmp_path: Path, networks: Networks) -> None:
    head = _linear(tmp_path, 16)
    objective = built(
        networks,
        f"objective.terms.text_alignment.clip={clip_folder}",
        f"+objective.terms.a={{type: aesthetic, clip: {clip_folder}, checkpoint: {head}}}",
        f"+objective.terms.b={{type: aesthetic, clip: {clip_folder}, checkpoint: {head}, goal: 5, weight: -1}}",
    )
    a, b = objective.terms["a"], objective.terms["b"]
    assert isinstance(a, Score) and isinstance(b, Score)
    assert a.scorer is b.scorer and a.scorer.clip is objective.terms["text_alignment"].clip  # type: ignore[attr-defined]
    assert (a.goal, b.goal, a.input_size, objective.weights["b"]) == ("maximize", 5, 32, -1)


MODULE = """
import torch

class Darkness:
    input_size = None

    def __init__(self, name, power=1, networks=None):
        self.name, self.power, self.networks = name, power, networks

    def targets(self, pairs):
        return torch.zeros(len(pairs), 0)

    def __call__(self, views, targets):
        return views.mean(dim=(1, 2, 3)) ** self.power

class NoTerm:
    pass

number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_terms_for_tests.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_terms_for_tests"


def test_a_term_of_one_s_own(own_module: str, clip_folder: Path, networks: Networks) -> None:
    objective = built(
        networks,
        f"objective.terms.text_alignment.clip={clip_folder}",
        f"+objective.terms.mine={{_target_: {own_module}.Darkness, weight: 0.5, power: 2}}",
    )
    term = objective.terms["mine"]
    assert (term.name, term.power, term.networks) == ("mine", 2, networks)  # type: ignore[attr-defined]
    assert objective.weights["mine"] == 0.5
    batch = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    output = objective.bind(PAIRS)(batch, [torch.Generator() for _ in range(2)], 0)
    torch.testing.assert_close(output.terms["mine"], batch.mean(dim=(1, 2, 3)) ** 2)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("_target_: MODULE.Darkness, powr: 2", "`objective.terms.mine`: the arguments do not fit .*'powr'"),
        ("_target_: MODULE.Nothing", "`objective.terms.mine._target_`: cannot import 'own_terms_for_tests.Nothing'"),
        ("_target_: no_such_module.Nothing", "cannot import 'no_such_module.Nothing': No module named"),
        ("_target_: MODULE.number", "expected a class or function at .*, got 3"),
        ("_target_: MODULE.NoTerm", "what own_terms_for_tests.NoTerm makes lacks name, input_size, targets, __call__"),
        ("type: black_box, function: MODULE.score", "`objective.terms.mine.function`: cannot import"),
    ],
)
def test_own_terms_that_do_not_work(
    own_module: str, clip_folder: Path, networks: Networks, term: str, message: str
) -> None:
    with pytest.raises(SgoolError, match=message):
        built(
            networks,
            f"objective.terms.text_alignment.clip={clip_folder}",
            f"+objective.terms.mine={{{term.replace('MODULE', own_module)}}}",
        )


def problems(*overrides: str) -> list[str]:
    """Everything that is said before any network is loaded."""
    try:
        load_config(overrides)
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["objective=image_alignment", "objective.terms.image_alignment.images=[no.png]"],
         ["`objective.terms.image_alignment.images`", "no file 'no.png'", "a reference image"]),
        (["objective=aesthetic", "objective.terms.aesthetic.checkpoint=no.pth"],
         ["`objective.terms.aesthetic.checkpoint`", "'no.pth'", "sac+logos+ava1-l14-linearMSE.pth, published at"]),
        (["objective=hps", "objective.terms.hps.clip.pretrained=HPS_v2.1_compressed.pt"],
         ["`objective.terms.hps.clip.pretrained`", "https://huggingface.co/xswu/HPSv2"]),
        (["objective=image_reward", "objective.terms.image_reward.checkpoint=ImageReward.pt"],
         ["`objective.terms.image_reward.checkpoint`", "https://huggingface.co/THUDM/ImageReward"]),
        (["objective=wsdan", "objective.terms.wsdan.checkpoint=bird.pth.tar", "objective.terms.wsdan.target=3"],
         ["`objective.terms.wsdan.checkpoint`", "WS_DAN_PyTorch"]),
        (["objective=classifier", "objective.terms.classifier.target=1", "objective.terms.classifier.source=local",
          "objective.terms.classifier.model=null"], ["checkpoint`: source=local needs one: a folder"]),
        (["objective=classifier", "objective.terms.classifier.target=1", "objective.terms.classifier.labels=no.txt"],
         ["labels`: there is no file 'no.txt'", "one class name a line"]),
        (["objective=wsdan", "objective.terms.wsdan.checkpoint=configs", "objective.terms.wsdan.target=3",
          "objective.terms.wsdan.model=x"], ["expected null with source=wsdan, got 'x'"]),
    ],
)  # fmt: skip
def test_missing_files_are_named_with_their_source_and_key(overrides: list[str], words: list[str]) -> None:
    found = problems(*overrides)
    assert all(any(word in text for text in found) for word in words), found


def test_a_tag_of_open_clip_is_no_file() -> None:
    assert problems("objective=hps", "objective.terms.hps.clip.pretrained=laion2b_s32b_b79k") == []
    assert problems() == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.terms.color.rgb=[1,2,3]", "expected red, green and blue, each in [0, 1], got [1, 2, 3]"),
        ("objective.terms.color.region=[0.5,0,0.2,1]", "expected [top, left, bottom, right] as growing fractions"),
        (
            "+objective.terms.a={type: sharpness, goal: up}",
            "expected maximize, minimize or a number to aim at, got 'up'",
        ),
        ("+objective.terms.a={type: symetry}", "did you mean `symmetry`?"),
        ("+objective.terms.a={type: classifier, source: timm, target: -1}", "a whole number of at least 0, or a text"),
        ("+objective.terms.a={type: black_box, function: score}", "expected a dotted path such as my_module.score"),
        ("+objective.terms.a={type: hps}", "`objective.terms.a.clip`: is missing"),
        ("+objective.terms.a={_target_: a.B, type: symmetry}", "unknown key `objective.terms.a._target_`"),
    ],
)
def test_values_that_make_no_sense(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(["objective=color", override])
    assert any(words in problem for problem in caught.value.problems), caught.value.problems


def test_what_a_term_leaves_out_is_written_into_the_configuration(own_module: str) -> None:
    own = f"{{_target_: {own_module}.B, k: 1}}"
    terms = to_plain(load_config(["+objective.terms.a={type: symmetry}", f"+objective.terms.b={own}"]))["objective"][
        "terms"
    ]
    assert terms["a"] == {"type": "symmetry", "weight": 1.0, "axis": "horizontal"}
    assert terms["b"] == {"type": "custom", "weight": 1.0, "_target_": f"{own_module}.B", "arguments": {"k": 1}}


def test_a_preference_checkpoint_that_cannot_be_read(tmp_path: Path, networks: Networks) -> None:
    (tmp_path / "HPS.pt").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(SgoolError, match=r"HPS.pt is a web page, not weights"):
        built(networks, "objective=hps", "objective.terms.hps.clip.model=ViT-B-32",
              f"objective.terms.hps.clip.pretrained={tmp_path / 'HPS.pt'}")  # fmt: skip
