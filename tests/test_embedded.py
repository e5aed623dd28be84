"""The embedded models load through the public libraries and do what their card says, in small."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import diffusers
import open_clip
import pytest
import torch

from sgool import Chain, PromptSeed, load_clip
from sgool.config.paths import ASSETS
from sgool.methods.starts import start_latents
from sgool.metrics import SceneReader, scene_checks
from sgool.run.fit import fit

WORLD = ASSETS / "emoji_world"


def test_all_weights_together_are_small() -> None:
    weights = list(WORLD.rglob("*.safetensors"))
    # VAE, UNet, text encoder, guide, judge, reader, classifier, saliency, two aesthetic heads
    assert len(weights) == 10
    assert sum(path.stat().st_size for path in weights) <= 64 * 2**20


def test_diffusers_loads_and_samples_the_pipeline_unchanged() -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(WORLD))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(0)
    image = pipeline("a panda", num_inference_steps=12, guidance_scale=4, generator=generator, output_type="pt").images
    assert image.shape == (1, 3, 64, 64)
    chain = Chain.from_pretrained("emoji_world", num_inference_steps=12, guidance_scale=4)
    with torch.no_grad():
        found = chain.with_prompts(["a panda"])(start_latents(chain, [PromptSeed("a panda", seed=0)])).images[0]
    # 12 steps of float32 networks; a pixel differs by less than one level of 255.
    torch.testing.assert_close(found.clamp(0, 1), image, atol=1 / 255, rtol=0)
    reading = SceneReader.from_pretrained(WORLD / "reader").read(image)[0]
    assert [detection.noun for detection in reading.detections] == ["panda"]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_few_step_student_draws_what_diffusers_does(steps: int) -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(ASSETS / "emoji_world_turbo"))
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a panda", "a blue car"]
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (0, 1)]
    images = pipeline(
        prompts, num_inference_steps=steps, guidance_scale=1, generator=generators, output_type="pt"
    ).images
    chain = Chain.from_pretrained("emoji_world_turbo", num_inference_steps=steps, guidance_scale=1)
    pairs = [PromptSeed(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
    with torch.no_grad():
        found = chain.with_prompts(prompts)(start_latents(chain, pairs)).images[0]
    assert chain.sampling_calls == steps
    torch.testing.assert_close(found.clamp(0, 1), images, atol=1 / 255, rtol=0)  # as above
    readings = SceneReader.from_pretrained(WORLD / "reader").read(images)
    assert [[detection.noun for detection in reading.detections] for reading in readings] == [["panda"], ["car"]]


def test_all_models_together_are_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 120 * 2**20


@pytest.mark.parametrize("name", ["guide", "judge"])
def test_open_clip_loads_the_towers(name: str) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{WORLD / name}")
    tower = load_clip(f"emoji_world/{name}")
    tokens = open_clip.get_tokenizer(f"local-dir:{WORLD / name}")(["a green cat"])
    embeds = torch.nn.functional.normalize(model.eval().encode_text(tokens), dim=-1)
    torch.testing.assert_close(embeds, tower.encode_text(["a green cat"]), atol=1e-5, rtol=0)
    assert preprocess is not None


def test_guide_and_judge_are_different_networks() -> None:
    configs = [json.loads((WORLD / name / "open_clip_config.json").read_text()) for name in ("guide", "judge")]
    assert configs[0]["model_cfg"]["vision_cfg"] != configs[1]["model_cfg"]["vision_cfg"]
    assert configs[0]["preprocess_cfg"]["mean"] != configs[1]["preprocess_cfg"]["mean"]
    vocabularies = [load_clip(f"emoji_world/{name}").fingerprint for name in ("guide", "judge")]
    assert vocabularies[0] != vocabularies[1]


@pytest.mark.parametrize("name", ["demo", "tune", "heldout"])
def test_every_prompt_has_a_scene_that_the_reader_can_check(name: str) -> None:
    reader = SceneReader.from_pretrained(WORLD / "reader")
    empty = reader.read(torch.full((1, 3, 64, 64), 0.5))[0]
    with (WORLD / "prompts" / f"{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        scene = json.loads(row["scene"])
        assert {item["noun"] for item in scene["objects"]} <= set(reader.nouns)
        assert {item["tint"] for item in scene["objects"] if "tint" in item} <= set(reader.tints)
        assert scene_checks(scene, empty)["all"] == 0


def test_a_few_updates_lower_the_guides_loss(tmp_path: Path) -> None:
    outcome = fit(
        "methods=[doodl]",
        "data.limit=2",
        "sampler.num_inference_steps=6",
        "optimization.num_optimization_steps=6",
        "objective.crops.num=4",
        "models.device=cpu",
        f"run_dir={tmp_path}",
    )
    assert outcome.exit_code == 0
    for record in outcome.records:
        assert record.best_step > 0
        assert record.metrics["objective"] < record.metrics["objective_initial"]
        assert "scene_accuracy" in record.metrics and "judge/clip_score" in record.metrics
