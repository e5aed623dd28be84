"""Every shipped method with every shipped objective and saliency detector, from the command line, on small weights.

The networks of objectives that the embedded world has none for are tiny ones, saved in the published layouts.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from sgool.cli import app
from sgool.config.paths import config_folder
from sgool.models.classifier import load_classifier
from sgool.saliency.transalnet_network import ARCHITECTURES, TranSalNet
from tests.models import test_image_reward, test_preference, test_wsdan
from tests.tiny_hps_v3 import hps_v3_options, save_hps_v3
from tests.tiny_vlm import save_vlm

#: Fixtures that write tiny weights in the layouts of PickScore, ImageReward and HPS, and Inception-v3 for WS-DAN.
pick_folder, image_reward_folder = test_preference.pick_folder, test_image_reward.folder
hps_file, trunk = test_preference.hps_file, test_wsdan.trunk

METHODS = sorted(path.stem for path in (config_folder() / "method").glob("*.yaml"))
OBJECTIVES = sorted(path.stem for path in (config_folder() / "objective").glob("*.yaml"))
DETECTORS = sorted(path.stem for path in (config_folder() / "saliency").glob("*.yaml"))
WORLDS = sorted(path.stem for path in (config_folder() / "models").glob("emoji_*.yaml"))
#: The other methods look at no saliency, so one detector is enough for them.
LOOKS = ("sgool", "sgool_paper")

SMALL = (
    "experiment=demo",
    "budget.calls=null",
    "data.limit=1",
    "models.device=cpu",
    "trainer.threads=1",
    "logger=none",
    "sampler.num_inference_steps=2",
    "optimization.num_optimization_steps=1",
    "objective.crops.num=2",
    "method.sgool.optimization.candidates=2",
    "method.best_of_n.num_candidates=2",
    "method.zero_order.num_candidates=3",
    "method.evolution.num_candidates=5",
    "method.evolution.population=3",
    "method.fk_steering.particles=2",
    "method.fk_steering.resample_every=1",
)


@pytest.fixture(scope="module")
def weights(
    tmp_path_factory: pytest.TempPathFactory,
    pick_folder: Path,
    image_reward_folder: Path,
    trunk: nn.Module,
) -> Path:
    """A folder with what the presets' files are: the embedded classifier stands for a local one."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(nn.Linear(128, 1).state_dict(), folder / "head.pth")
        torch.save(TranSalNet(ARCHITECTURES["resnet50"]).state_dict(), folder / "TranSalNet_Res.pth")
    state = test_wsdan._state(trunk, "torchvision", bias=True)
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, folder / "bird.pth.tar")
    save_vlm(folder / "vlm", "qwen2_5_vl")
    save_hps_v3(folder / "hps_v3")
    asked = {"prompt": "a purple house and a red banana", "questions": ["Is the banana red?"]}
    (folder / "asked.jsonl").write_text(json.dumps(asked))
    (folder / "pick").symlink_to(pick_folder)
    (folder / "image_reward").symlink_to(image_reward_folder)
    return folder


def objective_overrides(name: str, weights: Path, hps: Path) -> list[str]:
    """The preset and the weights that it asks for."""
    term = f"objective.terms.{name}"
    guide = "{model: emoji_world/guide, pretrained: null}"
    image = "emoji_world/references/panda.png"
    needs = {
        "aesthetic": [f"{term}.clip={guide}", f"{term}.checkpoint={weights}/head.pth"],
        "black_box": [f"{term}.function=tests.objectives.test_black_box.redness", f"{term}.probes=2"],
        "classifier": [f"{term}.source=local", f"{term}.model=null", f"{term}.checkpoint=emoji_world/classifier",
                       f"{term}.target=panda"],
        "hps": [f"{term}.clip={{model: {test_preference.ARCHITECTURE}, pretrained: '{hps}'}}"],
        "hps_v3": [f"{term}.{key}={value}" for key, value in hps_v3_options(weights / "hps_v3").items()],
        "image_alignment": [f"{term}.images=[{image}]"],
        "image_reward": [f"{term}.checkpoint={weights}/image_reward/ImageReward.pt",
                         f"{term}.med_config={weights}/image_reward/med_config.json",
                         f"{term}.tokenizer={weights}/image_reward/tokenizer"],
        "personalization": [f"objective.terms.b_32.images=[{image}]",
                            *(f"objective.terms.{tag}.clip={guide}" for tag in ("b_32", "l_14", "g_14"))],
        "pickscore": [f"{term}.model={weights}/pick", f"{term}.processor={weights}/pick"],
        # The demo's prompts have no questions; a file of its own has.
        "soft_tifa": [f"{term}.model={weights}/vlm", "data=file", f"data.prompts={weights}/asked.jsonl"],
        "text_ensemble": [f"objective.terms.{tag}.clip={guide}" for tag in ("b_32", "l_14", "g_14")],
        "vqa_score": [f"{term}.model={weights}/vlm"],
        "wsdan": ["objective.crops.num=1", f"{term}.checkpoint={weights}/bird.pth.tar", f"{term}.target=3"],
    }  # fmt: skip
    return [f"objective={name}", *needs.get(name, [])]


def saliency_overrides(name: str, weights: Path) -> list[str]:
    return [f"saliency={name}", *([f"saliency.detector.weights={weights}/TranSalNet_Res.pth"] * (name == "transalnet"))]


def run(run_dir: Path, methods: list[str], *overrides: str) -> Iterator[dict[str, object]]:
    """``sgool fit``; yields the records."""
    command = ["fit", *SMALL, f"methods=[{','.join(methods)}]", f"run_dir='{run_dir}'", *overrides]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for method in methods:
        (record,) = (run_dir / "pairs" / method).glob("*/record.json")
        yield json.loads(record.read_text()) | {"saliency": (record.parent / "saliency.png").exists()}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_method_with_every_objective(objective: str, weights: Path, hps_file: Path, tmp_path: Path) -> None:
    records = list(run(tmp_path / "run", METHODS, *objective_overrides(objective, weights, hps_file)))
    assert [record["status"] for record in records] == ["done"] * len(METHODS)
    for record in records:
        optimised = record["method"] != "vanilla"
        assert ("objective" in record["metrics"]) == optimised  # type: ignore[operator]
        assert record["saliency"] == (record["method"] in LOOKS)


@pytest.mark.parametrize("models", WORLDS)
def test_every_method_on_every_embedded_world(models: str, tmp_path: Path) -> None:
    for record in run(tmp_path / "run", METHODS, f"models={models}"):
        assert record["status"] == "done" and {"judge/clip_score", "scene_accuracy"} <= set(record["metrics"])  # type: ignore[call-overload]


@pytest.mark.parametrize("choose_by", ["own", "global", "salient"])
@pytest.mark.parametrize("sampler", ["ddim", "edict"])
def test_every_optimiser_after_a_search(sampler: str, choose_by: str, tmp_path: Path) -> None:
    methods = ["doodl", "sgool_paper", "reno"]
    own = ["optimization.candidates=2", f"optimization.choose_by={choose_by}", f"sampler={sampler}"]
    for record in run(tmp_path / "run", methods, *own):
        image = 2 * (1 + (sampler == "edict"))  # two steps
        # Two candidates, the update with what is computed again, and the image after it; the update's backward passes.
        spent = (record["network_evaluations"], record["network_backward_passes"])
        assert (record["status"], *spent) == ("done", (2 + 2 + 1) * image, image)
        folder = tmp_path / "run" / "pairs" / str(record["method"])
        (history,) = folder.glob("*/history.csv")
        rows = list(csv.DictReader(history.open()))
        assert [row["update"] for row in rows] == ["0", "1", "2", "3"] and {row["candidate"] for row in rows[:2]} == {
            "0",
            "1",
        }


def test_every_method_within_a_budget(tmp_path: Path) -> None:
    for record in run(tmp_path / "run", METHODS, "budget.calls=11"):
        calls = record["network_evaluations"] + record["network_backward_passes"]  # type: ignore[operator]
        # Of two steps: images of 2 calls, updates of 6 and an image after them, clip_guidance with its gradients.
        expected = {"vanilla": 2, "clip_guidance": 4, "doodl": 8, "sgool": 8, "sgool_paper": 8, "reno": 8}
        assert (record["status"], calls) == ("done", expected.get(str(record["method"]), 10))


def test_budgets_that_are_too_small_are_refused_together(tmp_path: Path) -> None:
    command = ["fit", *SMALL, f"run_dir='{tmp_path / 'run'}'", "methods=[vanilla,doodl,clip_guidance,fk_steering]"]
    result = CliRunner().invoke(app, [*command, "budget.calls=1", "optimization.candidates=3"])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    for name, calls in (("vanilla", 2), ("doodl (3 candidates, one update and the image after it)", 14),
                        ("clip_guidance", 4), ("fk_steering", 2)):  # fmt: skip
        assert f"expected at least {calls}" in said and name in said
    assert not (tmp_path / "run" / "pairs").exists()


@pytest.mark.parametrize("detector", [name for name in DETECTORS if name != "spectral_residual"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_detector_with_every_objective(
    objective: str, detector: str, weights: Path, hps_file: Path, tmp_path: Path
) -> None:
    overrides = [*objective_overrides(objective, weights, hps_file), *saliency_overrides(detector, weights)]
    (record,) = run(tmp_path / "run", [LOOKS[0]], *overrides)
    assert (record["status"], record["saliency"]) == ("done", True)


#: Objectives whose terms read the prompt and see regions.
READ = ("text_alignment", "text_ensemble")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_phrases_with_every_objective(objective: str, weights: Path, hps_file: Path, tmp_path: Path) -> None:
    overrides = ["match=phrases", *objective_overrides(objective, weights, hps_file)]
    (record,) = run(tmp_path / "run", [LOOKS[0]], *overrides)
    phrases = [found["phrase"] for found in record.get("phrases", ())]  # type: ignore[attr-defined]
    # "a purple house and a red banana"
    assert record["status"] == "done" and phrases == (["a purple house", "a red banana"] if objective in READ else [])


@pytest.mark.parametrize("detector", [name for name in DETECTORS if name != "spectral_residual"])
def test_phrases_with_every_detector(detector: str, weights: Path, tmp_path: Path) -> None:
    overrides = ["match=phrases", "saliency.assign=hungarian", *saliency_overrides(detector, weights)]
    (record,) = run(tmp_path / "run", [LOOKS[0]], *overrides)
    found: list[dict[str, object]] = record["phrases"]  # type: ignore[assignment]
    assert (record["status"], len(found)) == ("done", 2)
    assert all(isinstance(entry["distance"], float) for entry in found)
    (history,) = (tmp_path / "run").glob("pairs/*/*/history.csv")
    assert history.read_text().splitlines()[0].endswith(",regions,worst_phrase")


def test_every_method_that_may_look_at_saliency_finds_phrases(tmp_path: Path) -> None:
    methods = ["sgool", "doodl", "reno", "clip_guidance", "best_of_n"]
    looking = [f"method.{name}.use_saliency=true" for name in methods]
    records = list(run(tmp_path / "run", methods, "match=phrases", "saliency=transalnet_emoji", *looking))
    assert [len(record["phrases"]) for record in records] == [2] * len(methods)  # type: ignore[arg-type]


def test_the_stand_ins_have_the_published_layouts(weights: Path) -> None:
    assert load_classifier("wsdan", checkpoint=str(weights / "bird.pth.tar")).num_classes == test_wsdan.CLASSES
    assert torch.load(weights / "head.pth", weights_only=True).keys() == {"weight", "bias"}
