"""Every shipped configuration file composes, is complete, and documents its keys."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from sgool.config.paths import config_folder
from sgool.errors import ConfigError
from sgool.methods.options import method_optimization
from sgool.objectives.crops import random_boxes
from sgool.run.config import load_config, to_plain
from tests.tiny_hps_v3 import INSTRUCTION

FILES = sorted(path.relative_to(config_folder()) for path in config_folder().rglob("*.yaml"))
_HPS_V3 = ("checkpoint=@hps.safetensors", f"instruction={INSTRUCTION}")
#: Choices that do not stand alone, and what completes them; @ marks a file that has to exist.
_ALSO = {
    "data=csp": ["data.prompts=emoji_world/demo"],
    "data=daily_dalle": ["data.prompts=emoji_world/demo"],
    **{
        f"data={name}": ["data.prompts=emoji_world/demo"]
        for name in ("dpg", "geneval", "geneval2", "hpsv2", "t2i_compbench")
    },
    "data=file": ["data.prompts=emoji_world/demo"],
    "engine=reversible": ["sampler=edict"],
    "experiment=edit_aesthetic": ["objective.terms.aesthetic.checkpoint=@head.pth"],
    "experiment=personalization": ["objective.terms.b_32.images=[@a.png]"],
    "experiment=prompt_sets": ["saliency.detector.weights=emoji_world/saliency/transalnet.safetensors"],
    "experiment=prompt_sets_embedded": ["data.prompts=emoji_world/demo"],
    "experiment=vocabulary": ["objective.terms.wsdan.checkpoint=@bird.pth.tar"],
    "judges=aesthetic": ["models.judges.aesthetic.checkpoint=@head.pth"],
    "judges=hps": ["models.judges.hps.clip.pretrained=@hps.pt"],
    "judges=hps_v3": [f"models.judges.hps_v3.{value}" for value in _HPS_V3],
    "judges=image": ["models.judges.likeness.images=[@a.png]"],
    "judges=image_reward": ["models.judges.image_reward.checkpoint=@reward.pt"],
    "models=folder": ["models.path=pipelines/mine"],
    "objective=aesthetic": ["objective.terms.aesthetic.checkpoint=@head.pth"],
    "objective=black_box": ["objective.terms.black_box.function=tests.objectives.test_black_box.redness"],
    "objective=classifier": ["objective.terms.classifier.target=3"],
    "objective=hps": ["objective.terms.hps.clip.pretrained=@hps.pt"],
    "objective=hps_v3": [f"objective.terms.hps_v3.{value}" for value in _HPS_V3],
    "objective=image_alignment": ["objective.terms.image_alignment.images=[@a.png]"],
    "objective=image_reward": ["objective.terms.image_reward.checkpoint=@reward.pt"],
    "objective=personalization": ["objective.terms.b_32.images=[@a.png]"],
    "objective=wsdan": ["objective.terms.wsdan.checkpoint=@bird.pth.tar", "objective.terms.wsdan.target=3"],
    "saliency=transalnet": ["saliency.detector.weights=emoji_world/saliency/transalnet.safetensors"],
}
_DETECTORS_KEYS = yaml.safe_load((config_folder() / "saliency/center.yaml").read_text(encoding="utf-8"))
#: Keys that the file's first line explains, or whose parent's comment does.
_OBVIOUS = ("defaults", "name", "detector", "judge", *(file.stem for file in FILES if file.parent == Path("objective")))


def _override(file: Path) -> str:
    group, choice = file.parent.as_posix(), file.stem
    return f"method@method.{choice}={choice}" if group == "method" else f"{group}={choice}"


def _also(override: str, folder: Path) -> list[str]:
    """What completes a choice, with its files made in a folder."""
    also = _ALSO.get(override, [])
    for name in re.findall(r"@([\w.]+)", " ".join(also)):
        (folder / name).touch()
    return [entry.replace("@", f"{folder}/") for entry in also]


@pytest.mark.parametrize("file", [file for file in FILES if file.parent != Path()], ids=str)
def test_every_choice_composes(file: Path, tmp_path: Path) -> None:
    override = _override(file)
    config = load_config([override, *_also(override, tmp_path)])
    content = yaml.safe_load((config_folder() / file).read_text(encoding="utf-8"))
    if file.parent.name == "experiment":
        assert config.name == content["name"] == file.stem
    elif file.parent.name == "judges":
        assert set(config.models.judges) == {"judge", *content}
    elif file.parent.name in ("saliency", "match"):
        # The keys of `match` stand beside those of the detectors' files.
        matching = yaml.safe_load((config_folder() / "match/prompt.yaml").read_text(encoding="utf-8"))
        assert set(config.saliency) == set(content) | set(
            matching if file.parent.name == "saliency" else _DETECTORS_KEYS
        )
    elif file.parent.name == "models" and "defaults" in content:
        # What such a file leaves out is that of the file that it begins with.
        assert set(content) - {"defaults"} < set(config.models)
        sizes = {key: content[key] for key in ("height", "width")}
        path = content["path"] or "pipelines/mine"
        assert {"path": path, **sizes}.items() <= dict(config.models).items()
        assert config.models.dtype == content.get("dtype", config.models.dtype)
    else:
        node = config.method[file.stem] if file.parent.name == "method" else config[file.parent.name]
        assert set(node) == set(content)


#: All but the one without a model: it brings the defaults of whatever pipeline is named.
MODELS = sorted(file.stem for file in FILES if file.parent.name == "models" and file.stem != "folder")


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
@pytest.mark.parametrize("models", MODELS)
def test_a_model_brings_the_settings_that_suit_it(models: str, sampler: str) -> None:
    config = load_config([f"models={models}", f"sampler={sampler}"])
    preset = yaml.safe_load((config_folder() / "models" / f"{models}.yaml").read_text(encoding="utf-8"))["preset"]
    assert {key: config.sampler[key] for key in ("num_inference_steps", "guidance_scale")}.items() <= preset.items()
    updates = ("num_optimization_steps", "gradient_rms", "grad_clip_value")
    assert {key: config.optimization[key] for key in updates}.items() <= preset.items()


def test_the_folder_of_a_model_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"`models.path`: expected the folder of a diffusers pipeline, .* got None"):
        load_config(["models=folder"])


@pytest.mark.parametrize("models", MODELS)
def test_own_settings_go_before_those_of_a_model(models: str) -> None:
    preset = yaml.safe_load((config_folder() / "models" / f"{models}.yaml").read_text(encoding="utf-8"))["preset"]
    # A model with timesteps of its own has as many steps.
    other = [] if preset.get("timesteps") is None else ["sampler.timesteps=null"]
    own = load_config([f"models={models}", "sampler.num_inference_steps=7", "optimization.gradient_rms=0.5", *other])
    assert own.sampler.num_inference_steps == 7 and own.optimization.gradient_rms == 0.5


def test_a_model_without_such_settings_has_the_general_ones(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    text = (config_folder() / "models" / "sd14.yaml").read_text(encoding="utf-8")
    mine = {key: value for key, value in yaml.safe_load(text).items() if key != "preset"}
    (tmp_path / "models" / "mine.yaml").write_text(yaml.safe_dump(mine), encoding="utf-8")
    config = load_config(["models=mine"], tmp_path)
    assert (config.sampler.num_inference_steps, config.sampler.guidance_scale) == (12, 4.0)
    assert (config.optimization.num_optimization_steps, config.optimization.gradient_rms) == (16, 0.006)


#: One of each kind: embedded, with a sampler of sgool's own, with the model's own scheduler, with parts from elsewhere.
_DIFFERENT = ("emoji_world", "emoji_world_turbo", "sd14", "sdxl_turbo", "hyper_sdxl")


@pytest.mark.parametrize("models", _DIFFERENT)
@pytest.mark.parametrize("experiment", [file.stem for file in FILES if file.parent.name == "experiment"])
def test_every_experiment_composes_with_every_model(experiment: str, models: str, tmp_path: Path) -> None:
    override = f"experiment={experiment}"
    more = list(_also(override, tmp_path))
    if models.startswith(("sdxl", "hyper")):
        # Their weights are in float16, which has no autocast here, and classifier guidance does not know their sampler.
        more += ["trainer.precision=32-true"]
        methods = load_config([override, *more]).methods
        more += [f"methods=[{','.join(name for name in methods if name != 'clip_guidance')}]"]
    config = load_config([override, f"models={models}", *more])
    assert config.run_dir == f"runs/{experiment}"
    for name in ("text_alignment", "image_alignment"):
        assert name not in config.objective.terms or config.objective.terms[name].clip == config.models.guide


def test_the_default_is_the_three_methods_on_the_embedded_world() -> None:
    config = load_config()
    assert list(config.methods) == ["vanilla", "doodl", "sgool"]
    assert config.models.path == "emoji_world"
    assert (config.sampler.name, config.sampler.num_inference_steps) == ("ddim", 12)
    assert dict(config.engine) == {
        "name": "checkpoint",
        "memory_mib": 0,
        "gradient_steps": None,
        "split_guidance": False,
        "block_checkpointing": False,
    }
    optimization, saliency = config.optimization, config.saliency
    assert (optimization.num_optimization_steps, optimization.gradient_rms) == (16, 0.006)
    assert (optimization.grad_clip_value, optimization.keep) == (0.02, "best")
    assert (saliency.min_side, saliency.margin, saliency.w_global, saliency.w_salient) == (0.4, 0.2, 0.6, 0.4)
    assert (saliency.threshold, saliency.detector.name, saliency.match) == (0.4, "transalnet", "phrases")
    assert load_config(["models=sd14"]).saliency.detector.name == "spectral_residual"
    own = config.method.sgool.optimization
    assert (own.candidates, own.search_share, own.whiten.gradient, own.gradient_rms) == (24, 0.75, True, 0.02)
    assert (own.max_updates, optimization.max_updates) == (25, None)
    few_steps = load_config(["models=emoji_world_turbo"]).method.sgool.optimization
    assert few_steps.search_share == load_config(["models=sdxl_turbo"]).method.sgool.optimization.search_share == 0.5
    assert not config.method.sgool_paper.optimization and config.method.sgool_paper.saliency.match == "prompt"
    kinds = {name: (method.kind, method.get("use_saliency")) for name, method in config.method.items()}
    assert kinds == {
        "vanilla": ("vanilla", None),
        "doodl": ("optimize", False),
        "sgool": ("optimize", True),
        "sgool_paper": ("optimize", True),
        "reno": ("optimize", False),
        "clip_guidance": ("clip_guidance", False),
        "best_of_n": ("best_of_n", False),
        "zero_order": ("zero_order", False),
        "evolution": ("evolution", False),
        "fk_steering": ("fk_steering", False),
    }


@pytest.mark.parametrize("experiment", ["paper", "first_light"])
def test_what_was_made_with_the_published_form_stays(experiment: str) -> None:
    config = load_config([f"experiment={experiment}"])
    saliency, own = config.saliency, config.method.sgool_paper
    assert list(config.methods) == ["vanilla", "doodl", "sgool_paper"]
    assert (saliency.detector.name, saliency.match, saliency.threshold) == ("spectral_residual", "prompt", 0.35)
    assert (saliency.min_side, saliency.margin, saliency.w_global, saliency.w_salient) == (0.6, 0.25, 0.8, 0.2)
    assert not own.optimization and config.optimization.candidates == 1 and not config.optimization.whiten.gradient


def test_the_papers_experiment_has_the_papers_settings() -> None:
    config = to_plain(load_config(["experiment=paper"]))
    sampler, optimization, crops = config["sampler"], config["optimization"], config["objective"]["crops"]
    assert sampler == {
        "name": "edict",
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "mixing_coeff": 0.93,
        "leapfrog": True,
        "decode": "both",
    }
    assert (optimization["num_optimization_steps"], optimization["grad_clip_value"]) == (50, 1e-3)
    assert (optimization["momentum"], optimization["perturb_std"], optimization["keep"]) == (0.9, 1e-4, "last")
    assert (crops["num"], crops["power"], crops["reduction"]) == (16, 0.3, "min")


@pytest.mark.parametrize(
    ("overrides", "clamps", "steps_offset"),
    [
        ([], False, None),
        (["optimization=edit"], False, None),
        (["optimization=doodl"], True, 0),
        (["optimization=doodl", "models=sd14", "sampler=edict"], True, 0),
        (["experiment=paper", "models=sd14"], True, 0),
        (["optimization=doodl", "models.steps_offset=null", "optimization.clamp_images=false"], False, None),
        (["models.steps_offset=0"], False, 0),
    ],
)
def test_what_doodls_code_does_comes_with_its_settings(
    overrides: list[str], clamps: bool, steps_offset: int | None
) -> None:
    config = to_plain(load_config(overrides))
    assert (config["optimization"]["clamp_images"], config["models"]["steps_offset"]) == (clamps, steps_offset)
    assert method_optimization(config, "reno")["clamp_images"] is True
    assert config["method"]["clip_guidance"]["clamp_images"] is None


@pytest.mark.parametrize("experiment", ["paper", "prompt_sets", "text_guidance", "personalization"])
def test_doodls_crops_have_at_least_the_pixels_that_its_clip_sees(experiment: str, tmp_path: Path) -> None:
    """`MakeCutouts` of github.com/salesforce/DOODL: min(side, 224) pixels at least; 4000 of 256 had 226 to 255."""
    override = f"experiment={experiment}"
    config = load_config([override, "models=sd14", *_also(override, tmp_path)])
    crops = config.objective.crops
    boxes = random_boxes((256, 256), 4000, torch.Generator().manual_seed(0), power=0.3, min_side=crops.min_side)
    assert {min(box.height for box in boxes), max(box.height for box in boxes)} <= {*range(224, 228), 255}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_says_what_it_is(file: Path) -> None:
    lines = (config_folder() / file).read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines if line.startswith("#") and "@package" not in line]
    assert comments, f"{file} has no comment"
    assert lines[0].startswith("#")


@pytest.mark.parametrize(
    "file",
    [
        "config",
        "data/emoji_world",
        "engine/checkpoint",
        "engine/reversible",
        "judges/aesthetic",
        "judges/change",
        "judges/geneval",
        "judges/hps",
        "judges/hps_v3",
        "judges/image",
        "judges/image_reward",
        "judges/lpips",
        "judges/pickscore",
        "judges/soft_tifa",
        "judges/vqa_score",
        "method/best_of_n",
        "method/clip_guidance",
        "method/doodl",
        "method/evolution",
        "method/fk_steering",
        "method/vanilla",
        "method/zero_order",
        "models/emoji_world",
        "objective/aesthetic",
        "objective/black_box",
        "objective/classifier",
        "objective/color",
        "objective/hps",
        "objective/hps_v3",
        "objective/image_alignment",
        "objective/image_reward",
        "objective/pickscore",
        "objective/sharpness",
        "objective/soft_tifa",
        "objective/symmetry",
        "objective/text_alignment",
        "objective/vqa_score",
        "objective/wsdan",
        "optimization/fast",
        "saliency/center",
        "saliency/fixed",
        "saliency/grad_cam",
        "saliency/grad_cam_pp",
        "saliency/spectral_residual",
        "saliency/transalnet",
        "saliency/transalnet_emoji",
        "sampler/bdia",
        "sampler/belm",
        "sampler/ddim",
        "sampler/dpm_solver",
        "sampler/edict",
        "trainer/default",
    ],
)
def test_every_key_of_the_reference_files_has_a_comment(file: str) -> None:
    lines = (config_folder() / f"{file}.yaml").read_text(encoding="utf-8").splitlines()
    bare = []
    for above, line in pairwise(lines):
        key = line.partition(":")[0].strip()
        if key.isidentifier() and key not in _OBVIOUS and "#" not in above:
            bare.append(key)
    assert bare == []
