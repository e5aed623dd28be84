"""Which settings a loaded pipeline gets: by the name it was loaded from, its scheduler and its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler

from sgool import SGOOLPipeline
from sgool.errors import ConfigError
from tests.tiny_families import BETAS, tiny_family


def _named(kind: str, name: str, **parts: str) -> Any:
    """A tiny pipeline as if it had been loaded from the hub or a folder of this name."""
    pipeline = tiny_family(kind)
    pipeline.register_to_config(_name_or_path=name)
    for part, source in parts.items():
        getattr(pipeline, part).register_to_config(_name_or_path=source)
    return pipeline


SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_CASES = [
    ("sd", "stable-diffusion-v1-5/stable-diffusion-v1-5", {}, "sd15"),
    ("sd", "/models/stable-diffusion-v1-4/", {}, "sd14"),
    ("sd", "stabilityai/sd-turbo", {}, "sd_turbo"),
    ("sdxl", "stabilityai/sdxl-turbo", {}, "sdxl_turbo"),
    ("sdxl", SDXL, {}, "sdxl"),
    ("sdxl_lcm", SDXL, {"unet": "latent-consistency/lcm-sdxl"}, "sdxl_lcm"),
    ("flux_dev", "black-forest-labs/FLUX.1-dev", {}, "flux_dev"),
    ("sd", "somebody/finetuned", {}, None),
    ("sd", "", {}, None),
]


@pytest.mark.parametrize(("kind", "name", "parts", "expected"), _CASES)
def test_settings_by_name(kind: str, name: str, parts: dict[str, str], expected: str | None) -> None:
    pipeline = _named(kind, name, **parts)
    if expected == "sdxl_lcm":
        pipeline.scheduler = LCMScheduler(**BETAS)
    pipe = SGOOLPipeline(pipeline)
    source = f"models={expected} (recognised by" if expected else f"the defaults of {type(pipeline).__name__}"
    assert f"settings: {source}" in repr(pipe)
    known = SGOOLPipeline.from_pretrained(expected).settings if expected else None
    sampler, preset = pipe.settings["sampler"], pipe.settings["models"]["preset"]
    if known is None:
        assert (sampler["name"], sampler["num_inference_steps"], sampler["guidance_scale"]) == ("native", 50, 7.5)
        assert pipe.settings["models"]["height"] is None
    else:
        assert (sampler, preset) == (known["sampler"], known["models"]["preset"])
        assert pipe.settings["models"]["height"] == known["models"]["height"]


def test_a_configuration_that_is_named_wins() -> None:
    pipe = SGOOLPipeline(_named("sdxl", SDXL), models="sdxl_turbo")
    assert "models=sdxl_turbo (as asked for)" in repr(pipe)
    assert pipe.settings["sampler"]["num_inference_steps"] == 1


def test_the_pipelines_own_scheduler_is_kept() -> None:
    """`models=sdxl_turbo` loads an ancestral scheduler; a pipeline object has its own, which is the user's choice."""
    pipeline = _named("sdxl", "stabilityai/sdxl-turbo")
    assert isinstance(pipeline.scheduler, EulerDiscreteScheduler)
    pipe = SGOOLPipeline(pipeline, judges=False)
    pipe.set_progress_bar_config(disable=True)
    pipe("a red cat", method="vanilla", height=16, width=16)
    assert isinstance(pipeline.scheduler, EulerDiscreteScheduler)


def test_names_folders_and_hub_ids() -> None:
    for path, source in {
        "emoji_world": "models=emoji_world",
        "sdxl_turbo": "models=sdxl_turbo",
        "stabilityai/sdxl-turbo": "models=sdxl_turbo (recognised by its name)",
        "somebody/finetuned": "the defaults of the pipeline in somebody/finetuned",
    }.items():
        assert f"settings: {source}\n" in repr(SGOOLPipeline.from_pretrained(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGOOLPipeline("emoji_world"), "from_pretrained"),
        (lambda: SGOOLPipeline(3), "`pipeline`: expected a loaded pipeline of diffusers, got a int"),
        (lambda: SGOOLPipeline(tiny_family("sd"), models="sdxl_trubo"), "did you mean `sdxl_turbo`"),
        (lambda: SGOOLPipeline(tiny_family("sd"), family="sd4"), "`family`: expected one of stable_diffusion"),
        (lambda: SGOOLPipeline(tiny_family("sd"), judges=["ViT-B-32"]), "`judges`: expected a mapping"),
        (lambda: SGOOLPipeline(tiny_family("sd"), guide=3), "`guide`: expected a folder in open_clip's layout"),
        (lambda: SGOOLPipeline.from_pretrained("emoji_wrld"), "did you mean `emoji_world`"),
        (lambda: SGOOLPipeline.from_pretrained("emoji_world", overrides=["models.dtpe=float16"]), "models.dtype"),
    ],
)
def test_wrong_arguments(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make()
    assert message in str(raised.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        SGOOLPipeline(tiny_family("sd"), models="nothing", guide=3, judges=4)  # type: ignore[arg-type]
    assert len(raised.value.problems) == 3


def test_names_of_diffusers_for_how_a_model_is_loaded() -> None:
    half = SGOOLPipeline.from_pretrained("sdxl", torch_dtype=torch.float16, variant="fp16").settings["models"]
    assert (half["dtype"], half["variant"]) == ("float16", "fp16")
    assert SGOOLPipeline.from_pretrained("sdxl", dtype=torch.float16).settings["models"]["dtype"] == "float16"
    with pytest.raises(ConfigError) as raised:
        SGOOLPipeline.from_pretrained("sdlx", dtype=torch.float16, torch_dtype=torch.float32)
    assert len(raised.value.problems) == 2
    assert "`torch_dtype`: expected None where `dtype` is given, got torch.float32 and torch.float16" in str(
        raised.value
    )
