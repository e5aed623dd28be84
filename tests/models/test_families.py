"""Model families: what their pipelines are told, sizes, encoders, folders, and what is refused with a sentence."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

from sgool.config.families import FAMILIES, family_for
from sgool.config.locate import locate
from sgool.config.pipeline import call_problems, clipping_problems, guidance_problems, kind_problems, size_problems
from sgool.diffusion import Chain
from sgool.errors import ConfigError, SgoolError
from sgool.methods.starts import start_latents
from sgool.models.families import family_of
from sgool.models.load import load_models
from sgool.models.schedule import Spacing
from sgool.run.config import load_config
from sgool.types import PromptSeed
from tests.tiny_families import BETAS, tiny_family

TEXTS = ["a red cat", "trees"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Some families' pipelines as diffusers saves them."""
    root = tmp_path_factory.mktemp("families")
    for name in ("sdxl", "sd3_without_t5", "flux_schnell"):
        tiny_family(name).save_pretrained(root / name)
    return {name: root / name for name in ("sdxl", "sd3_without_t5", "flux_schnell")}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_row_of_the_registry_is_a_class_for_pipelines_that_exist(name: str) -> None:
    import diffusers

    row = FAMILIES[name]
    made: Any = locate(row.builder, "models.family")
    assert callable(made.of)
    for kind in row.pipelines:
        assert hasattr(diffusers, kind) and family_for(kind) == name
    assert bool(row.pipelines) == (name != "replay")  # which is for any pipeline, where it is asked for
    if name == "replay":
        return
    assert family_for("NoSuchPipeline") is None and family_for("NoSuchPipeline", row.pipelines[0]) == name


def test_a_derived_class_has_its_parents_family() -> None:
    class Mine(StableDiffusionXLPipeline):
        """One of the user's own."""

    pipeline = tiny_family("sdxl")
    pipeline.__class__ = Mine
    assert type(family_of(pipeline)).__name__ == "StableDiffusionXL"


@pytest.mark.parametrize("name", ["sdxl", "sd3_without_t5"])
def test_a_folder_is_loaded_as_its_family(folders: dict[str, Path], name: str) -> None:
    loaded = load_models(folders[name], device="cpu")
    assert loaded.name == str(folders[name]) and list(kind_problems(str(folders[name]))) == []
    start = torch.randn(1, 1, *loaded.latent_shape(), generator=torch.Generator().manual_seed(0))
    images = []
    for family in (loaded, family_of(tiny_family(name))):
        chain = Chain(family, num_inference_steps=2, guidance_scale=4.0).with_prompts(["a red cat"], ["a house"])
        images.append(chain(start).images)
    torch.testing.assert_close(images[0], images[1])
    assert load_models(folders[name], device="cpu", vae_dtype=torch.float64).vae_dtype == torch.float64


def test_an_empty_negative_prompt_is_none_for_sdxl_unless_its_switch_says_otherwise() -> None:
    """Each row by itself, whatever the others of its batch are."""
    pipeline = tiny_family("sdxl")
    expected = {}
    for text in (None, "", "a house"):
        _, other, _, pooled = pipeline.encode_prompt("trees", device="cpu", negative_prompt=text)
        expected[text] = (other[0], pooled[0])
    assert not expected[None][0].any() and expected[""][0].any()
    for call, empty in (({}, None), ({"force_zeros_for_empty_prompt": False}, "")):
        _, negative = family_of(pipeline, call=call).encode(TEXTS, ["", "a house"], 5.0, 16, 16)
        assert isinstance(negative, Mapping) and isinstance(negative["added_cond_kwargs"], Mapping)
        for row, text in enumerate((empty, "a house")):
            torch.testing.assert_close(negative["encoder_hidden_states"][row], expected[text][0])  # type: ignore[index]
            torch.testing.assert_close(negative["added_cond_kwargs"]["text_embeds"][row], expected[text][1])  # type: ignore[index]


def test_sdxl_is_told_the_size_and_what_the_call_says_of_it() -> None:
    pipeline = tiny_family("sdxl")
    for call, told in (({}, [16, 24, 0, 0, 16, 24]), ({"original_size": [64, 32]}, [64, 32, 0, 0, 16, 24])):
        positive, _ = family_of(pipeline, call=call).encode(["a"], None, 1.0, 16, 24)
        assert positive["added_cond_kwargs"]["time_ids"].tolist() == [told]  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("name", "cfg", "read"),
    [("sdxl", 4.5, True), ("sdxl_lcm", 1.0, False), ("sd3", 4.5, True), ("flux_dev", 1.0, False),
     ("sana", 4.5, True), ("sana_sprint", 1.0, False)],
)  # fmt: skip
def test_who_has_classifier_free_guidance(name: str, cfg: float, read: bool) -> None:
    family = family_of(tiny_family(name))
    assert family.cfg_scale(4.5) == cfg
    chain = Chain(family, num_inference_steps=2, guidance_scale=4.5, sampler="native", height=32, width=32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain.with_prompts(["a red cat"], ["a house"])
    assert any("negative prompts are not read" in str(note.message) for note in caught) != read


def test_text_that_no_encoder_reads_is_named_once() -> None:
    long = "a red cat to the left of a blue house and a photo of two green trees on a yellow background"
    with_t5, without = (family_of(tiny_family(name)) for name in ("sd3", "sd3_without_t5"))
    assert with_t5.truncated([long, "a red cat"]) == ["", ""]  # T5 reads it
    (cut,) = without.truncated([long])
    assert cut and long.replace(" ", "").endswith(cut.replace(" ", ""))
    with pytest.warns(UserWarning, match="prompt longer than the model reads: '.*background' of .* is cut off"):
        without.encode([long], None, 1.0)
    assert family_of(tiny_family("sd3"), call={"max_sequence_length": 6}).truncated([long])[0] == cut


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux_dev", "pixart_sigma", "sana", "wan"])
def test_images_are_encoded_at_the_decoders_scale(name: str) -> None:
    family = family_of(tiny_family(name), call={"num_frames": 1} if name == "wan" else {})
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    latents = family.encode_images(images)
    assert latents.shape == (2, *family.latent_shape(32, 32))
    encoded = family.vae.encode((images if name != "wan" else images[:, :, None]) * 2 - 1)  # type: ignore[attr-defined]
    plain = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    torch.testing.assert_close(family.unscaled(latents), plain, atol=1e-5, rtol=1e-4)  # type: ignore[attr-defined]
    assert family.decode(latents).shape == images.shape


@pytest.mark.parametrize(
    ("name", "call", "size", "words"),
    [
        ("sdxl", {}, (16, 15), r"`models\.width`: expected a multiple of 2 pixels for this model, got 15; 16 would do"),
        ("sd3", {}, (18, 16), r"`models\.height`: expected a multiple of 4 pixels for this model, got 18; "),
        ("sd3", {}, (16, 128), r"`models\.width`: expected at most 64 pixels for this model, got 128"),
        ("flux_dev", {}, (16, 18), r"`models\.width`: expected a multiple of 4 pixels for this model, got 18; "),
        ("wan", {}, (24, 16), r"`models\.height`: expected a multiple of 16 pixels for this model, got 24; "),
        ("wan", {"num_frames": 7}, (16, 16), r"call\.num_frames`: expected a multiple of 4, plus 1, got 7; 9 would do"),
    ],
)
def test_sizes_that_a_family_cannot_make(name: str, call: dict[str, Any], size: tuple[int, int], words: str) -> None:
    with pytest.raises(SgoolError, match=words):
        Chain.from_pipeline(tiny_family(name), call=call, height=size[0], width=size[1], num_inference_steps=2)


def test_guidance_for_a_model_that_is_distilled_without_it(folders: dict[str, Path]) -> None:
    message = (
        r"`sampler\.guidance_scale`: expected 1 or less, since .* is distilled without guidance .*schnell\), got 3.5"
    )
    with pytest.raises(SgoolError, match=message):
        Chain.from_pipeline(tiny_family("flux_schnell"), guidance_scale=3.5, height=16, width=16)
    with pytest.raises(ConfigError, match=message):
        load_config([f"models.path={folders['flux_schnell']}", "sampler.guidance_scale=3.5"])
    chain = Chain.from_pipeline(tiny_family("flux_schnell"), guidance_scale=None, height=16, width=16)
    assert chain.guidance_scale == 0
    assert list(guidance_problems(str(folders["sdxl"]), 7.0)) == []


def test_a_scheduler_that_clips_is_refused_before_weights_load(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    (folder / "scheduler").mkdir(parents=True)
    (folder / "model_index.json").write_text((folders["sdxl"] / "model_index.json").read_text())
    settings = {"_class_name": "DDPMScheduler", "clip_sample": True}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    words = "native needs a scheduler whose steps are linear, got DDPMScheduler with clip_sample, which cuts off .*ddim"
    own = ["sampler=native", "sampler.num_inference_steps=2", "sampler.timesteps=[999]", "sampler.sigmas=[1.0,0.5]"]
    with pytest.raises(ConfigError, match=words) as caught:
        load_config([f"models.path={folder}", *own])
    assert "expected one of the two at most, got both" in str(caught.value)
    assert "expected 1, as many as `sampler.timesteps` has, got 2" in str(caught.value)
    assert list(clipping_problems(str(folders["sdxl"]))) == []


def test_a_sampler_that_a_consistency_model_has_not() -> None:
    with pytest.raises(SgoolError, match=r"Sana-Sprint is a consistency model.*; use sampler=native"):
        Chain.from_pipeline(tiny_family("sana_sprint"), height=32, width=32, num_inference_steps=2)


def test_families_that_do_not_fit(tmp_path: Path, folders: dict[str, Path]) -> None:
    pipeline = tiny_family("sd3")
    with pytest.raises(
        SgoolError, match=r"`models\.family`: expected one of stable_diffusion, sdxl, .*, or null, got 'sdx'"
    ):
        family_of(pipeline, "sdx")
    with pytest.raises(
        SgoolError, match=r"`models\.family`: sdxl needs a pipeline with a unet, and StableDiffusion3Pipe"
    ):
        family_of(pipeline, "sdxl")
    words = "`models.call`: the family sd3 takes these arguments: max_sequence_length, clip_skip; got true_cfg_scale"
    with pytest.raises(SgoolError, match=words):
        family_of(pipeline, call={"true_cfg_scale": 2})
    path = str(folders["sd3_without_t5"])
    assert list(call_problems(path, None, {"true_cfg_scale": 2})) == [words]
    assert list(call_problems(path, None, {"clip_skip": 1})) == []
    with pytest.raises(ConfigError) as caught:
        load_config([f"models.path={path}", "models.call={true_cfg_scale: 2}", "models.height=18", "models.width=16"])
    assert words in str(caught.value) and "`models.height`: expected a multiple of 4 pixels" in str(caught.value)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "AuraFlowPipeline"}))
    (problem,) = kind_problems(str(other))
    assert "is a AuraFlowPipeline" in problem and "sd3 (StableDiffusion3Pipeline)" in problem
    assert list(kind_problems(str(other), "sd3")) == []
    assert list(size_problems(str(other), 17, 17)) == []


def test_a_familys_own_spacing_of_a_diffusion_model_counts() -> None:
    pipeline = tiny_family("sdxl")
    pipeline.scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    chain = Chain.from_pipeline(pipeline, num_inference_steps=4, height=16, width=16)
    assert [step.timestep for step in chain.schedule.steps] == [999, 749, 499, 249]


def test_pixart_alpha_in_one_step_needs_a_scheduler_that_predicts_without_noise() -> None:
    with pytest.raises(SgoolError, match=r"DPMSolverMultistepScheduler does not say; use more steps"):
        Chain.from_pipeline(tiny_family("pixart_alpha"), sampler="native", num_inference_steps=1, height=32, width=32)


def test_a_wan_of_two_transformers_is_refused() -> None:
    pipeline = tiny_family("wan")
    pipeline.register_to_config(boundary_ratio=0.875)
    with pytest.raises(SgoolError, match=r"expected a Wan with one transformer, .* use models.family=replay"):
        family_of(pipeline)


def test_channels_last_of_a_video(tmp_path: Path) -> None:
    tiny_family("wan").save_pretrained(tmp_path)
    loaded = load_models(tmp_path, device="cpu", channels_last=True)
    (weight, *_) = [weight for weight in loaded.pipeline.vae.parameters() if weight.ndim == 5 and weight.shape[1] > 1]
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_an_autoencoder_that_overflows_in_float16_is_in_float32_for_replay(tmp_path: Path) -> None:
    pipeline = tiny_family("sdxl")
    pipeline.vae.register_to_config(force_upcast=True)
    pipeline.save_pretrained(tmp_path)
    loaded = load_models(tmp_path, device="cpu", dtype=torch.float16, family="replay")
    assert loaded.pipeline.vae.dtype == torch.float32 and loaded.pipeline.unet.dtype == torch.float16
    chain = Chain(loaded, sampler="native", num_inference_steps=1, guidance_scale=1.0, height=16, width=16)
    latents = start_latents(chain, [PromptSeed("a red cat", 0)]).requires_grad_()
    (gradient,) = torch.autograd.grad(chain.with_prompts(["a red cat"])(latents).images.sum(), latents)
    assert bool(gradient.isfinite().all()) and float(gradient.abs().sum()) > 0


def test_sanas_instruction_is_left_out_where_it_is_empty() -> None:
    pipeline = tiny_family("sana")
    own, plain = family_of(pipeline), family_of(pipeline, call={"complex_human_instruction": []})
    with_it, without = (family.encode(["a red cat"], None, 1.0, 32, 32)[0] for family in (own, plain))
    expected, *_ = pipeline.encode_prompt(["a red cat"], False, complex_human_instruction=None)
    (embeds,) = (value for value in without.values() if value.ndim == 3)
    assert torch.equal(embeds, expected.to(embeds))
    assert not torch.equal(embeds, next(value for value in with_it.values() if value.ndim == 3))


def test_captions_are_cleaned_only_with_the_packages_that_diffusers_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them diffusers would leave captions as they are, and say so in a note that sgool hides."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "PixArtSigmaPipeline"}))
    monkeypatch.setattr("sgool.config.families._CLEANERS", {"no_such_module": "beautifulsoup4", "json": "ftfy"})
    words = (
        "`models.call.clean_caption`: diffusers cleans captions by beautifulsoup4 and ftfy, and here is no "
        "beautifulsoup4; pip install beautifulsoup4, or leave it out"
    )
    with pytest.raises(SgoolError, match=words):
        family_of(tiny_family("sana"), call={"clean_caption": True})
    assert list(call_problems(str(tmp_path), None, {"clean_caption": True})) == [words]
    assert list(call_problems(str(tmp_path), None, {"clean_caption": False})) == []
    monkeypatch.setattr("sgool.config.families._CLEANERS", {"json": "ftfy"})
    assert list(call_problems(str(tmp_path), None, {"clean_caption": True})) == []


@pytest.mark.parametrize("spacing", ["ddim", "dpm"])
def test_samplers_of_our_own_take_a_consistency_models_original_steps(spacing: Spacing) -> None:
    """The timesteps are those that the scheduler itself takes, as with the sampler ``native``."""
    pipeline = tiny_family("lcm")
    for steps in (20, 50):
        family = family_of(pipeline, call={"original_inference_steps": steps})
        pipeline.scheduler.set_timesteps(4, original_inference_steps=steps)
        expected = pipeline.scheduler.timesteps.tolist()
        assert [step.timestep for step in family.schedule(4, spacing).steps] == expected
    assert family_of(pipeline).schedule(4, spacing).steps == family.schedule(4, spacing).steps
