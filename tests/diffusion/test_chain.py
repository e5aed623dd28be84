"""Values of the chain against diffusers and against the slow second implementation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from sgool.diffusion import NoisePredictor, Schedule, build_engine, build_sampler, build_schedule, denoise
from sgool.errors import SgoolError
from sgool.models.load import DiffusionModels
from sgool.module import LatentPairModule
from sgool.types import PromptSeed
from tests.reference import Chain, scheduler64

PROMPTS = ["a red cat", "two green trees"]
NEGATIVE = ["", "a blue house"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predictor(models: DiffusionModels, schedule: Schedule, guidance: float = 7.5) -> NoisePredictor:
    text, negative = models.encode_prompts(PROMPTS), models.encode_prompts(NEGATIVE)
    return NoisePredictor(models.unet, text, negative, guidance, schedule.prediction_type)


def reference(models: DiffusionModels, steps: int, **options: Any) -> Chain:
    return Chain(models.unet, models.encode_prompts(PROMPTS), models.encode_prompts(NEGATIVE), steps, **options)


def run(
    models: DiffusionModels, latents: Tensor, steps: int, sampler: str, guidance: float = 7.5, **options: Any
) -> Tensor:
    schedule = build_schedule(models.scheduler, steps)
    predict = predictor(models, schedule, guidance)
    return denoise(latents, schedule, build_sampler(sampler, **options), predict, build_engine("direct"))


def close(got: Tensor, expected: Tensor, relative: float) -> None:
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= relative * float(expected.abs().max())


@pytest.mark.parametrize("steps", [1, 4, 7])
@pytest.mark.parametrize("config", [{}, {"steps_offset": 0}, {"set_alpha_to_one": True}])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_equals_diffusers_scheduler(
    models64: DiffusionModels, steps: int, config: dict[str, Any], prediction: str
) -> None:
    scheduler = scheduler64(**config, prediction_type=prediction)
    models = replace(models64, scheduler=scheduler)
    start = randn(2, 4, 8, 8)
    got = run(models, start[None], steps, "ddim")[0]
    embeds = torch.cat([models.encode_prompts(NEGATIVE), models.encode_prompts(PROMPTS)])
    scheduler.set_timesteps(steps)
    expected = start
    for t in scheduler.timesteps:
        negative, text = models.unet(torch.cat([expected] * 2), t, encoder_hidden_states=embeds).sample.chunk(2)
        expected = scheduler.step(negative + 7.5 * (text - negative), t, expected).prev_sample
    # Same network and table; rounding of another order of operations only.
    close(got, expected, 1e-11)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [3, 4])
def test_ddim_equals_the_slow_one(models64: DiffusionModels, steps: int, offset: int) -> None:
    models = replace(models64, scheduler=scheduler64(steps_offset=offset))
    start = randn(2, 4, 8, 8)
    close(run(models, start[None], steps, "ddim")[0], reference(models, steps, offset=offset).ddim(start), 1e-11)


@pytest.mark.parametrize(("guidance", "seed"), [(7.5, 3), (1.0, 4), (3.0, 0)])
def test_vanilla_image_is_that_of_the_diffusers_pipeline(
    pipeline_folder: Path, models: DiffusionModels, guidance: float, seed: int
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 6, "guidance_scale": guidance, "output_type": "pt"}
    expected = pipeline(
        "a red cat", negative_prompt="a blue house", generator=torch.Generator().manual_seed(seed), **arguments
    ).images
    pair = PromptSeed("a red cat", seed, negative_prompt="a blue house")
    got = LatentPairModule(models, [pair], num_inference_steps=6, guidance_scale=guidance).sample()
    assert float(expected.std()) > 0.01  # an image, not a constant
    # float32 through six steps; attention is computed by another kernel.
    torch.testing.assert_close(got, expected.cpu(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 4, 5])
@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, {}),
        ({"steps_offset": 0}, {}),
        ({"set_alpha_to_one": True}, {"mixing_coeff": 1.0}),
        ({"prediction_type": "v_prediction"}, {"leapfrog": False}),
        ({"prediction_type": "sample"}, {"mixing_coeff": 0.8}),
    ],
)
def test_edict_equals_the_slow_one(
    models64: DiffusionModels, steps: int, config: dict[str, Any], options: dict[str, Any]
) -> None:
    models = replace(models64, scheduler=scheduler64(**config))
    start = randn(2, 2, 4, 8, 8)
    slow = reference(
        models,
        steps,
        offset=config.get("steps_offset", 1),
        mixing=options.get("mixing_coeff", 0.93),
        leapfrog=options.get("leapfrog", True),
        prediction=config.get("prediction_type", "epsilon"),
        alpha_after=1.0 if config.get("set_alpha_to_one") else None,
    )
    # float64; "sample" divides by sqrt(1 - alpha), as small as 0.04 at the end.
    close(run(models, start, steps, "edict", **options), torch.stack(slow.edict(*start)), 1e-10)


@pytest.mark.parametrize("steps", [4, 7, 10])
@pytest.mark.parametrize("options", [{}, {"mixing_coeff": 1.0}, {"leapfrog": False}])
@pytest.mark.parametrize("offset", [0, 1])
def test_edict_round_trip(models64: DiffusionModels, steps: int, options: dict[str, Any], offset: int) -> None:
    schedule = build_schedule(scheduler64(steps_offset=offset), steps)
    sampler: Any = build_sampler("edict", **options)
    predict = predictor(models64, schedule)
    start = randn(2, 2, 4, 8, 8)
    latents = denoise(start, schedule, sampler, predict, build_engine("direct"))
    assert float((latents - start).abs().max()) > 0.1
    for step in reversed(schedule.steps):
        latents = sampler.inverse(latents, step, predict)
    # Un-mixing amplifies rounding by 0.93^-2 a step and guidance 7.5 by the network's slope.
    assert float((latents - start).abs().max()) <= 1e-8


def test_leapfrog_and_mixing_change_the_result(models64: DiffusionModels) -> None:
    start = randn(2, 2, 4, 8, 8)
    results = [run(models64, start, 4, "edict", **o) for o in ({}, {"leapfrog": False}, {"mixing_coeff": 0.9})]
    for other in results[1:]:
        assert float((results[0] - other).abs().max()) > 1e-4


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
def test_pairs_of_a_batch_do_not_meet(models64: DiffusionModels, sampler: str) -> None:
    streams = build_sampler(sampler).num_streams
    start = randn(streams, 2, 4, 8, 8)
    both = run(models64, start, 3, sampler)
    changed = start.clone()
    changed[:, 1] += 1
    again = run(models64, changed, 3, sampler)
    torch.testing.assert_close(again[:, 0], both[:, 0], rtol=0, atol=1e-12)
    assert float((again[:, 1] - both[:, 1]).abs().max()) > 0.1


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
@pytest.mark.parametrize(("offset", "counted"), [(0, 4), (1, 5)])
def test_calls_of_a_forward_pass(models64: DiffusionModels, sampler: str, offset: int, counted: int) -> None:
    """With offset 0 the last step keeps its alpha: its noise has no weight and the network is not asked."""
    schedule = build_schedule(scheduler64(steps_offset=offset), 5)
    chosen = build_sampler(sampler)
    predict = predictor(models64, schedule)
    with torch.no_grad():
        denoise(randn(chosen.num_streams, 2, 4, 8, 8), schedule, chosen, predict, build_engine("checkpoint"))
    assert predict.calls == chosen.network_calls(schedule.steps) == counted * chosen.num_streams


def test_bad_latents(models64: DiffusionModels) -> None:
    with pytest.raises(SgoolError, match=r"edict expects shape \(2, B, C, h, w\), got \(1, 2, 4, 8, 8\)"):
        run(models64, randn(1, 2, 4, 8, 8), 2, "edict")
    with pytest.raises(SgoolError, match=r"ddim expects shape \(1, B, C, h, w\), got \(2, 4, 8, 8\)"):
        run(models64, randn(2, 4, 8, 8), 2, "ddim")
    latents = randn(1, 2, 4, 8, 8)
    latents[0, 1, 0, 0, 0] = float("nan")
    with pytest.raises(SgoolError, match="expected finite numbers, got NaN or infinity before the first step"):
        run(models64, latents, 2, "ddim")


def test_bad_names_and_options(models64: DiffusionModels) -> None:
    with pytest.raises(SgoolError, match=r"`sampler.name`: expected one of ddim, edict, got 'heun'"):
        build_sampler("heun")
    with pytest.raises(SgoolError, match=r"ddim does not take \['mixing_coeff'\]"):
        build_sampler("ddim", mixing_coeff=0.9)
    with pytest.raises(SgoolError, match=r"`sampler.engine`: expected one of direct, checkpoint, got 'magic'"):
        build_engine("magic")
    for coefficient in (0.5, 1.1, float("nan")):
        with pytest.raises(SgoolError, match=r"mixing_coeff`: expected a number in \(0.5, 1\], got"):
            build_sampler("edict", mixing_coeff=coefficient)
    text = models64.encode_prompts(PROMPTS)
    with pytest.raises(SgoolError, match=r"`guidance_scale` 7\.5 needs `negative_prompt_embeds`"):
        NoisePredictor(models64.unet, text, None, 7.5)
    with pytest.raises(SgoolError, match="expected epsilon, v_prediction or sample, got 'flow'"):
        NoisePredictor(models64.unet, text, text, 7.5, "flow")
