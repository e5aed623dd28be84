"""Values of every sampler: against diffusers, against a slow second implementation, against an exact solution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, pairwise, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from sgool.diffusion import (
    GuidedModel,
    Schedule,
    Step,
    build_engine,
    build_sampler,
    build_schedule,
    denoise,
    network_calls,
)
from sgool.methods.latent_pairs import LatentPairModule
from sgool.models.stable_diffusion import StableDiffusion
from sgool.types import PromptSeed
from tests.reference import Chain, assert_close, randn, scheduler64

PROMPTS = ["a red cat", "two green trees"]
NEGATIVE = ["", "a blue house"]
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SAMPLERS = ["ddim", "edict", "belm", "bdia", "dpm_solver"]


def guided(models: StableDiffusion, guidance: float = 7.5, **options: Any) -> GuidedModel:
    text, negative = models.encode_prompts(PROMPTS), models.encode_prompts(NEGATIVE)
    return GuidedModel(models.unet, text, negative, guidance, **options)


def run(
    models: StableDiffusion,
    scheduler: Any,
    latents: Tensor,
    steps: int,
    name: str,
    guidance: float = 7.5,
    **options: Any,
) -> Tensor:
    sampler = build_sampler(name, **options)
    schedule = build_schedule(scheduler, steps, sampler.spacing)
    return denoise(latents, schedule, sampler, guided(models, guidance), build_engine("direct"))


def slow(models: StableDiffusion, steps: int, **options: Any) -> Chain:
    return Chain(models.unet, models.encode_prompts(PROMPTS), models.encode_prompts(NEGATIVE), steps, **options)


@torch.no_grad()
def diffusers_loop(models: StableDiffusion, scheduler: Any, x: Tensor, steps: int, guidance: float) -> Tensor:
    embeds = torch.cat([models.encode_prompts(NEGATIVE), models.encode_prompts(PROMPTS)])
    scheduler.set_timesteps(steps)
    if x.dtype == torch.float64 and hasattr(scheduler, "sigmas"):
        scheduler.sigmas = scheduler.sigmas.double()  # the same numbers; diffusers' logarithms of them in float64
    for t in scheduler.timesteps:
        seen = torch.cat([x, x]).to(models.dtype)
        negative, text = models.unet(seen, t, encoder_hidden_states=embeds).sample.to(x.dtype).chunk(2)
        x = scheduler.step(negative + guidance * (text - negative), t, x).prev_sample
    return x


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    "config", [{}, {"steps_offset": 0}, {"set_alpha_to_one": True}, {"timestep_spacing": "trailing"}]
)
def test_ddim_equals_diffusers_scheduler(models64: StableDiffusion, config: dict[str, Any], prediction: str) -> None:
    scheduler, start = scheduler64(**config, prediction_type=prediction), randn(2, 4, 8, 8)
    for steps in (1, 4, 5) if config else (1, 2, 7, 15):
        expected = diffusers_loop(models64, scheduler, start, steps, 7.5)
        # Same network and float64 table: rounding of another order of operations only.
        assert_close(run(models64, scheduler, start[None], steps, "ddim")[0], expected, 1e-11)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("solver", ["ddim", "dpm_solver"])
def test_float32_latents_equal_diffusers_scheduler(models64: StableDiffusion, solver: str, prediction: str) -> None:
    """Latents, tables and arithmetic in float32; the network in float64.

    So that the bound is the sampler's: a random network under guidance amplifies its own float32 rounding to 1e-5.
    """
    kind, extra = (DDIMScheduler, {"clip_sample": False}) if solver == "ddim" else (DPMSolverMultistepScheduler, {})
    scheduler = kind(**SD, **extra, prediction_type=prediction)
    start = randn(2, 4, 8, 8).float()
    for steps in (1, 2, 4, 5, 10, 15, 20, 30):
        expected = diffusers_loop(models64, scheduler, start, steps, 3.0)
        got = run(models64, scheduler, start[None], steps, solver, guidance=3.0)[0]
        assert got.dtype == torch.float32
        assert_close(got, expected, 1e-6)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_dpm_solver_equals_diffusers_scheduler(
    models64: StableDiffusion, spacing: str, karras: bool, final: str
) -> None:
    config = {"timestep_spacing": spacing, "use_karras_sigmas": karras, "final_sigmas_type": final}
    start, predictions = randn(2, 4, 8, 8), cycle(PREDICTIONS)
    # Fewer than 15 steps end in first order by default; the last pair asks for what the number of steps would not.
    for lower, euler, steps in ((True, False, 5), (True, False, 16), (False, False, 5), (False, True, 16)):
        scheduler = DPMSolverMultistepScheduler(
            **SD, **config, lower_order_final=lower, euler_at_final=euler, prediction_type=next(predictions)
        )
        expected = diffusers_loop(models64, scheduler, start, steps, 3.0)
        got = run(models64, scheduler, start[None], steps, "dpm_solver", guidance=3.0)[0]
        # float64, but diffusers rounds the sample to float32 (6e-8) in each step.
        assert_close(got, expected, 1e-6)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
@pytest.mark.parametrize(("guidance", "seed"), [(7.5, 3), (1.0, 4), (3.0, 0)])
def test_vanilla_image_is_that_of_the_diffusers_pipeline(
    pipeline_folder: Path, models: StableDiffusion, guidance: float, seed: int, sampler: str
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if sampler == "dpm_solver":
        config = pipeline.scheduler.config
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")
    arguments = {"num_inference_steps": 6, "guidance_scale": guidance, "output_type": "pt"}
    expected = pipeline(
        "a red cat", negative_prompt="a blue house", generator=torch.Generator().manual_seed(seed), **arguments
    ).images
    pair = PromptSeed("a red cat", seed, negative_prompt="a blue house")
    module = LatentPairModule(
        models, [pair], sampler=build_sampler(sampler), num_inference_steps=6, guidance_scale=guidance
    )
    assert float(expected.std()) > 0.01  # an image, not a constant
    # float32 through six steps; attention is computed by another kernel.
    torch.testing.assert_close(module.sample(), expected.cpu(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_ddim_equals_the_slow_one(models64: StableDiffusion, spacing: str) -> None:
    """Also where diffusers' own step does not: steps that do not divide 1000, and linspace."""
    start = randn(2, 4, 8, 8)
    for steps, offset in ((3, 0), (4, 1), (7, 1)):
        scheduler = scheduler64(steps_offset=offset, timestep_spacing=spacing)
        expected = slow(models64, steps, offset=offset, spacing=spacing).ddim(start)
        assert_close(run(models64, scheduler, start[None], steps, "ddim")[0], expected, 1e-11)


@pytest.mark.parametrize("steps", [1, 3, 5, 7, 10, 30])
def test_edict_equals_the_slow_one(models64: StableDiffusion, steps: int) -> None:
    start = randn(2, 2, 4, 8, 8)
    expected = torch.stack(slow(models64, steps).edict(*start))
    # Guidance 7.5 amplifies rounding over 60 calls.
    assert_close(run(models64, scheduler64(), start, steps, "edict"), expected, 1e-10)


@pytest.mark.parametrize(
    ("knobs", "ends"),
    list(zip(product([1.0, 0.93, 0.8], [True, False], PREDICTIONS), cycle(product([1, 0], [False, True])))),
)
def test_edict_with_other_knobs(
    models64: StableDiffusion, knobs: tuple[float, bool, str], ends: tuple[int, bool]
) -> None:
    (mixing, leapfrog, prediction), (offset, to_one) = knobs, ends
    scheduler = scheduler64(steps_offset=offset, set_alpha_to_one=to_one, prediction_type=prediction)
    after = 1.0 if to_one else None
    chain = slow(models64, 4, offset=offset, mixing=mixing, leapfrog=leapfrog, prediction=prediction, alpha_after=after)
    start = randn(2, 2, 4, 8, 8)
    got = run(models64, scheduler, start, 4, "edict", mixing_coeff=mixing, leapfrog=leapfrog)
    # "sample" divides by sqrt(1 - alpha), as small as 0.04 at the end.
    assert_close(got, torch.stack(chain.edict(*start)), 1e-10)


@pytest.mark.parametrize(("name", "options"), [("belm", {}), ("bdia", {"gamma": 1.0}), ("bdia", {"gamma": 0.4})])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_two_step_samplers_equal_the_slow_ones(
    models64: StableDiffusion, name: str, options: dict[str, float], prediction: str
) -> None:
    start = randn(2, 4, 8, 8)
    for steps, offset, to_one in ((1, 1, False), (4, 0, False), (7, 1, False), (10, 1, True)):
        chain = slow(models64, steps, offset=offset, prediction=prediction, alpha_after=1.0 if to_one else None)
        expected = chain.belm(start) if name == "belm" else chain.bdia(start, options["gamma"])
        scheduler = scheduler64(steps_offset=offset, set_alpha_to_one=to_one, prediction_type=prediction)
        assert_close(run(models64, scheduler, start[None], steps, name, **options)[0], expected, 1e-10)


@pytest.mark.parametrize("name", ["ddim", "edict", "belm", "bdia"])
def test_gradient_equals_that_of_the_slow_one(models64: StableDiffusion, name: str) -> None:
    streams = build_sampler(name).num_streams
    start, weight, chain = randn(streams, 2, 4, 8, 8), randn(streams, 2, 4, 8, 8, seed=1), slow(models64, 4)

    def gradient(quick: bool) -> Tensor:
        leaf = start.clone().requires_grad_(True)
        if quick:
            final = run(models64, scheduler64(), leaf, 4, name)
        elif name == "edict":
            final = torch.stack(chain.edict(*leaf))
        else:
            final = (chain.bdia(leaf[0], 1.0) if name == "bdia" else getattr(chain, name)(leaf[0]))[None]
        return torch.autograd.grad((weight * final).sum(), leaf)[0]

    assert_close(gradient(True), gradient(False), 1e-10)


def test_knobs_change_the_result(models64: StableDiffusion) -> None:
    pair = randn(2, 4, 8, 8).expand(2, 2, 4, 8, 8)
    for name, knobs in (
        ("edict", [{}, {"leapfrog": False}, {"mixing_coeff": 0.9}]),
        ("bdia", [{}, {"gamma": 0.9}]),
    ):
        streams = build_sampler(name).num_streams
        default, *others = [run(models64, scheduler64(), pair[:streams], 4, name, **options) for options in knobs]
        for other in others:
            assert float((default - other).abs().max()) > 1e-4


class GaussianNetwork(nn.Module):
    """The exact noise prediction for data N(1, 0.5^2): sampling is then an ODE with a known solution."""

    config = SimpleNamespace(in_channels=1)
    dtype, device = torch.float64, torch.device("cpu")
    mean, variance = 1.0, 0.25

    def __init__(self, alphas: list[float]) -> None:
        super().__init__()
        self.alphas = alphas

    def forward(self, x: Tensor, t: int, **_: Any) -> tuple[Tensor]:
        alpha = self.alphas[t]
        return (math.sqrt(1 - alpha) * (x - math.sqrt(alpha) * self.mean) / (alpha * self.variance + 1 - alpha),)


def error_after(steps: int, name: str, **options: Any) -> float:
    """From noise over signal 10 to 0.1, by angles of equal distance: smooth steps, so that an order is seen."""
    begin, end = math.atan(10.0), math.atan(0.1)
    alphas = [math.cos(begin + (end - begin) * i / steps) ** 2 for i in range(steps + 1)]
    rows = tuple(Step(i, i, alphas[i], alphas[i + 1]) for i in range(steps))
    sampler, network = build_sampler(name, **options), GaussianNetwork(alphas)
    start = randn(1, 1, 4, 4).expand(sampler.num_streams, 1, 1, 4, 4)
    model = GuidedModel(network, torch.zeros(1, 1, 1, dtype=network.dtype))
    got = denoise(start, Schedule(rows, first_order_end=False), sampler, model, build_engine("direct"))
    # z = x / sqrt(a) obeys dz/ds = s (z - mean) / (variance + s^2).
    shrink = math.sqrt((network.variance + 0.1**2) / (network.variance + 10.0**2))
    z = network.mean + (start / math.sqrt(alphas[0]) - network.mean) * shrink
    return float((got / math.sqrt(alphas[-1]) - z).abs().max())


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("belm", 2), ("bdia", 2), ("dpm_solver", 2)])
def test_order_of_convergence(name: str, order: int) -> None:
    errors = [error_after(steps, name) for steps in (80, 160, 320)]
    # Doubling the steps divides the error by 2^order, up to terms of the next order (0.02 here).
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.05


@pytest.mark.parametrize("name", SAMPLERS)
def test_pairs_of_a_batch_do_not_meet(models64: StableDiffusion, name: str) -> None:
    start = randn(build_sampler(name).num_streams, 2, 4, 8, 8)
    changed = start.clone()
    changed[:, 1] += 1
    both, again = (run(models64, scheduler64(), latents, 3, name) for latents in (start, changed))
    torch.testing.assert_close(again[:, 0], both[:, 0], rtol=0, atol=1e-12)
    assert float((again[:, 1] - both[:, 1]).abs().max()) > 0.1


@contextmanager
def forwards(network: nn.Module) -> Iterator[list[int]]:
    """The batch sizes that the network saw."""
    seen: list[int] = []
    handle = network.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", SAMPLERS)
def test_network_calls_of_a_forward_pass(models64: StableDiffusion, name: str, offset: int, split: bool) -> None:
    """With offset 0, DDIM's last step keeps its alpha: its noise has no weight and the network is not asked."""
    sampler = build_sampler(name)
    schedule = build_schedule(scheduler64(steps_offset=offset), 5, sampler.spacing)
    skipped = offset == 0 and name != "dpm_solver"  # whose own spacing does not reach timestep 0
    model = guided(models64, split_guidance=split)
    with torch.no_grad(), forwards(models64.unet) as seen:
        denoise(randn(sampler.num_streams, 2, 4, 8, 8), schedule, sampler, model, build_engine("checkpoint"))
    expected = (5 - skipped) * sampler.num_streams
    assert model.calls == network_calls(sampler, schedule) == expected
    assert seen == ([2] * 2 * expected if split else [4] * expected)


@pytest.mark.parametrize("guidance", [7.5, 0.0])
def test_split_guidance_changes_no_value(models64: StableDiffusion, guidance: float) -> None:
    sampler, schedule, start = build_sampler("ddim"), build_schedule(scheduler64(), 3), randn(1, 2, 4, 8, 8)
    got, expected = (
        denoise(start, schedule, sampler, guided(models64, guidance, split_guidance=split), build_engine("direct"))
        for split in (True, False)
    )
    assert_close(got, expected, 1e-11)
