"""What a pipeline keeps from call to call, and what a user may change between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sgool import SGOOLPipeline
from sgool.errors import ConfigError, SgoolError
from sgool.models.networks import Networks
from sgool.objectives import Color
from sgool.objectives.build import build_objective
from tests.pipeline.conftest import quiet, seeded
from tests.tiny_families import tiny_family

PROMPT = "a red cat"
SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2}


@pytest.mark.parametrize("name", ["unet", "text_encoder", "vae"])
def test_a_network_that_is_exchanged_later(name: str) -> None:
    pipeline, other = tiny_family("sd"), tiny_family("sd", seed=1)
    pipe = quiet(SGOOLPipeline(pipeline, judges=False))

    def made() -> Tensor:
        images: Tensor = pipe(PROMPT, method="vanilla", generator=seeded(4), output_type="pt", **SIZE).images
        return images

    first = made()
    assert torch.equal(made(), first)
    setattr(pipeline, name, getattr(other, name))
    second = made()
    assert float((first - second).abs().max()) > 0.01
    theirs = pipeline(PROMPT, generator=seeded(4), output_type="pt", **SIZE).images
    assert float((second - theirs).abs().max()) <= 0.5 / 255 + 1e-5  # 8 bits


def test_configurations_that_are_handed_out_are_copies(tiny: SGOOLPipeline) -> None:
    asked: dict[str, Any] = {"method": "vanilla", **SIZE}
    result = tiny(PROMPT, generator=seeded(1), **asked)
    result.config["sampler"]["num_inference_steps"] = 7
    tiny.settings["models"]["dtype"] = "float16"
    assert tiny.settings["models"]["dtype"] == "float32"
    again = tiny(PROMPT, generator=seeded(1), **asked)
    assert again.config["sampler"]["num_inference_steps"] == 2


def test_a_function_with_the_name_of_a_configured_term(tiny: SGOOLPipeline) -> None:
    def text_alignment(images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))

    asked: dict[str, Any] = {"method": "doodl", "num_optimization_steps": 1, **SIZE}
    with pytest.raises(ConfigError) as raised:
        tiny(PROMPT, objective=["text_alignment", text_alignment], overrides=["models.dtype=float16"], **asked)
    assert len(raised.value.problems) == 2
    assert "the configuration has a term named 'text_alignment' already; give the function" in str(raised.value)
    # Alone it replaces nothing, since the configuration's objective is left out.
    assert "text_alignment" in tiny(PROMPT, objective=text_alignment, **asked).history


def test_an_objective_refuses_further_terms_by_a_name_it_has(tiny: SGOOLPipeline) -> None:
    options = {"terms": {"red": {"type": "color", "rgb": [1, 0, 0], "weight": 1}}, "crops": {}}
    with pytest.raises(ConfigError, match="has a term named 'red' already"):
        build_objective(options, Networks(tiny.settings["models"]), further={"red": (Color(rgb=(0.0, 1.0, 0.0)), 1.0)})


def test_offload_is_set_when_the_model_is_loaded(tiny: SGOOLPipeline) -> None:
    with pytest.raises(ConfigError, match=r"`overrides`: models.offload is set when the model is loaded"):
        tiny(PROMPT, method="vanilla", overrides=["models.offload=model"])
    assert tiny.settings["models"]["offload"] is None


@pytest.mark.parametrize(
    ("name", "family", "force", "expected"),
    [
        ("sdxl", None, True, torch.float32),
        ("sdxl", None, False, torch.float16),
        ("sdxl", "replay", True, torch.float32),
        ("sd", None, True, torch.float16),
    ],
)
def test_the_autoencoder_of_sdxl_is_upcast_during_a_call(
    name: str, family: str | None, force: bool, expected: torch.dtype
) -> None:
    """As in diffusers: its pipeline of SDXL looks at `force_upcast`, that of Stable Diffusion does not."""
    pipeline = tiny_family(name).to(torch.float16)
    pipeline.vae.register_to_config(force_upcast=force)
    weights = pipeline.vae.decoder.conv_in.weight.clone()
    pipe, seen = quiet(SGOOLPipeline(pipeline, judges=False, family=family)), []

    def dark(images: Tensor) -> Tensor:
        seen.append(pipeline.vae.dtype)
        return images.mean(dim=(1, 2, 3))

    asked: dict[str, Any] = {"method": "doodl", "num_optimization_steps": 1, "objective": dark, **SIZE}
    pipe(PROMPT, generator=seeded(4), **asked)
    assert set(seen) == {expected}
    # The pipeline's own call works as before: with an autoencoder left in float32 it fails.
    assert pipeline.vae.dtype == torch.float16 and torch.equal(pipeline.vae.decoder.conv_in.weight, weights)
    assert pipeline(PROMPT, generator=seeded(4), output_type="pt", **SIZE).images.isfinite().all()
    with pytest.raises(ConfigError, match="`prompt`: expected"):
        pipe([], method="vanilla")
    assert pipeline.vae.dtype == torch.float16


@pytest.mark.parametrize("method", ["clip_guidance", "fk_steering"])
def test_no_first_latents_lead_to_what_is_changed_between_steps(method: str, tiny: SGOOLPipeline) -> None:
    asked: dict[str, Any] = {"generator": seeded(1), "sampler": "ddim", **SIZE}
    with pytest.raises(ConfigError, match=f"`output_type`: .* {method} acts between denoising steps"):
        tiny(PROMPT, method=method, output_type="latent", **asked)
    # Steps so long that 8 bits of random networks' pictures show them.
    more = ["method.clip_guidance.clip_guidance_scale=1000"] if method == "clip_guidance" else []
    result = tiny(PROMPT, method=method, output_type="pt", overrides=more, **asked)
    again = tiny(PROMPT, method="vanilla", latents=result.latents, output_type="pt", sampler="ddim", **SIZE)
    assert not torch.equal(result.images, again.images)


def test_latents_are_denoised_as_many_at_once_as_were_optimised(tiny: SGOOLPipeline) -> None:
    asked: dict[str, Any] = {"method": "vanilla", "output_type": "latent", "guidance_scale": 1.0, **SIZE}
    sizes: list[int] = []
    hook = tiny.pipeline.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    try:
        together = tiny([PROMPT, "trees", "a dog"], generator=seeded(1), **asked)
        assert max(sizes) == 3
        sizes.clear()
        few = ["trainer.pairs_per_fit=2"]
        apart = tiny([PROMPT, "trees", "a dog"], generator=seeded(1), overrides=few, **asked)
    finally:
        hook.remove()
    assert set(sizes) == {1, 2}
    for ours, theirs in ((apart.images, together.images), (apart.initial_images, together.initial_images)):
        assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())  # float32
    assert not torch.equal(apart.images[0], apart.images[2])


def test_memory_that_runs_out(tiny: SGOOLPipeline) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    asked: dict[str, Any] = {"method": "doodl", "num_optimization_steps": 1, "callback_on_step_end": full, **SIZE}
    with pytest.raises(SgoolError, match=r'out of memory with 2 images .*overrides=\["trainer.pairs_per_fit=1"\]'):
        tiny([PROMPT, "trees"], **asked)
    with pytest.raises(SgoolError, match=r'with 1 image side by side. Use overrides=\["engine=checkpoint"') as raised:
        tiny([PROMPT, "trees"], overrides=["trainer.pairs_per_fit=1"], **asked)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def test_particles_are_no_candidates(tiny: SGOOLPipeline) -> None:
    with pytest.raises(ConfigError, match=r'has particles; .* overrides=\["method.fk_steering.particles=3"\]'):
        tiny(PROMPT, method="fk_steering", candidates=3, sampler="ddim", **SIZE)
