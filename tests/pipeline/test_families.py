"""`method="vanilla"` makes the images of the diffusers pipeline's own call with the same generator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import diffusers
import pytest
import torch

from sgool import SGOOLPipeline
from tests.pipeline.conftest import quiet, seeded
from tests.tiny_families import BETAS, tiny_family
from tests.tiny_replay import aura_flow

PROMPTS = ["a red cat", "trees"]
_PLAIN = {"use_resolution_binning": False, "clean_caption": False}
_SANA = _PLAIN


@dataclass(frozen=True)
class Case:
    """A pipeline, and what its own call is told beside: ``call`` ours too, ``told`` where the family decides."""

    steps: int = 3
    side: int = 16
    call: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    scheduler: str | None = None


CASES = {
    "sd": Case(),
    # Noise is added on the way, of both images from one generator.
    "sd ancestral": Case(scheduler="EulerAncestralDiscreteScheduler"),
    "sdxl_lcm": Case(scheduler="LCMScheduler"),
    "lcm": Case(call={"original_inference_steps": 50}),
    "sd3": Case(call={"max_sequence_length": 8}),
    "flux_dev": Case(),
    "flux_schnell": Case(),
    "pixart_sigma": Case(told=_PLAIN),
    "sana_sprint": Case(2, 32, told=_SANA),
    "wan": Case(call={"num_frames": 5}),
}


def _pipeline(name: str) -> Any:
    pipeline, case = tiny_family(name.partition(" ")[0]), CASES[name]
    if case.scheduler is not None:
        pipeline.scheduler = getattr(diffusers, case.scheduler)(**BETAS)
    return pipeline


def _own(pipeline: Any, name: str, generator: Any, **more: Any) -> Any:
    case = CASES[name]
    size = {"height": case.side, "width": case.side, "num_inference_steps": case.steps}
    made = pipeline(PROMPTS, generator=generator, output_type="pt", **size, **case.call, **case.told, **more)
    return made.frames if name == "wan" else made.images


def _ours(pipeline: Any, name: str, generator: Any, **more: Any) -> Any:
    case = CASES[name]
    pipe = quiet(SGOOLPipeline(pipeline, judges=False, call=case.call or None))
    size = {"height": case.side, "width": case.side, "num_inference_steps": case.steps}
    return pipe(PROMPTS, method="vanilla", generator=generator, output_type="pt", **size, **more).images


def _assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    # Ours have the values of 8-bit pixels, half a level away at most; the rest is float32, of which 1.1e-5 was seen.
    assert float((ours - theirs).abs().max()) <= 0.5 / 255 + 5e-5
    assert float(theirs.std()) > 0.01  # else nothing would be compared


@pytest.mark.parametrize("name", CASES)
def test_one_generator_for_all_images(name: str) -> None:
    pipeline = _pipeline(name)
    theirs = _own(pipeline, name, seeded(4))
    _assert_same(_ours(pipeline, name, seeded(4)), theirs)


def test_a_list_of_generators_and_several_images_a_prompt() -> None:
    pipeline = _pipeline("sd ancestral")
    many = {"num_images_per_prompt": 2, "negative_prompt": ["a house", ""], "guidance_scale": 3.0}
    theirs = _own(pipeline, "sd ancestral", [seeded(seed) for seed in range(4)], **many)
    _assert_same(_ours(pipeline, "sd ancestral", [seeded(seed) for seed in range(4)], **many), theirs)


def test_a_generator_that_was_used_before() -> None:
    pipeline, ours, theirs = _pipeline("sd"), seeded(1), seeded(1)
    for _ in range(2):
        own = _own(pipeline, "sd", theirs)
        _assert_same(_ours(pipeline, "sd", ours), own)
    assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize(
    ("name", "given"), [("sd", "height"), ("sdxl_lcm", "width"), ("flux_dev", "height"), ("sd3", "width")]
)
def test_of_a_side_that_is_not_given_the_model_s_own_is_taken(name: str, given: str) -> None:
    pipeline, case = _pipeline(name), CASES[name]
    # diffusers' StableDiffusionPipeline takes its own size for both where one is missing; its other classes do as here.
    missing = {"width": case.side} if name == "sd" else {}
    told = {given: 32, "num_inference_steps": 1, "generator": seeded(4), "output_type": "pt"}
    theirs = pipeline(PROMPTS[0], **told, **missing, **case.call, **case.told).images
    pipe = quiet(SGOOLPipeline(pipeline, judges=False, call=case.call or None))
    ours = pipe(PROMPTS[0], method="vanilla", **{**told, "generator": seeded(4)}).images
    assert sorted(ours.shape[-2:]) != [32, 32]
    assert ours.shape[-2 if given == "height" else -1] == 32
    _assert_same(ours, theirs)


def test_given_latents_and_denoised_ones() -> None:
    pipeline = _pipeline("sd")
    latents = torch.randn(2, 4, 8, 8, generator=seeded(9))
    size = {"height": 16, "width": 16, "num_inference_steps": 3, "latents": latents, "output_type": "latent"}
    theirs = pipeline(PROMPTS, **size).images
    result = quiet(SGOOLPipeline(pipeline, judges=False))(PROMPTS, method="vanilla", **size)
    assert float((result.images - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())  # float32
    assert torch.equal(result.latents, latents)


def test_a_scheduler_that_is_exchanged_later() -> None:
    pipeline = _pipeline("sd")
    pipe = quiet(SGOOLPipeline(pipeline, judges=False))
    asked = {"method": "vanilla", "num_inference_steps": 3, "output_type": "pt"}
    first = pipe(PROMPTS, generator=seeded(4), **asked).images
    pipeline.scheduler = diffusers.EulerDiscreteScheduler(**BETAS)
    second = pipe(PROMPTS, generator=seeded(4), **asked).images
    assert float((first - second).abs().max()) > 0.01
    _assert_same(second, _own(pipeline, "sd", seeded(4)))


def test_a_pipeline_without_a_family_is_replayed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = aura_flow()
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 16, "width": 16, "num_inference_steps": 2}
    theirs = pipeline(["a red cat"], generator=seeded(4), output_type="pt", **size).images
    pipe = quiet(SGOOLPipeline(pipeline, judges=False, family="replay"))
    assert "AuraFlowPipeline" in repr(pipe)
    ours = pipe(["a red cat"], method="vanilla", generator=seeded(4), output_type="pt", **size).images
    assert float((ours - theirs).abs().max()) <= 0.5 / 255 + 5e-5  # as in _assert_same
