"""Values of every sampler: against diffusers, against a slow second implementation, against an exact solution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from sgool.diffusion import Chain, build_sampler
from sgool.errors import SgoolError
from sgool.models.family import Conditioning, Defaults, concatenate
from sgool.models.load import load_models
from sgool.models.schedule import Schedule, Spacing, Step
from sgool.models.stable_diffusion import StableDiffusion
from sgool.prompts.seeding import first_latents
from tests import reference
from tests.reference import assert_close, randn, scheduler64

PROMPTS = ["a red cat", "two green trees"]
NEGATIVE = ["", "a blue house"]
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SAMPLERS = ["ddim", "edict", "belm", "bdia", "dpm_solver"]


def chain_of(models: StableDiffusion, scheduler: Any, steps: int, sampler: Any = "ddim", **options: Any) -> Chain:
    """With another scheduler than the model's own."""
    models = replace(models, scheduler=scheduler)
    chain = Chain(models, num_inference_steps=steps, sampler=sampler, engine="direct", **options)
    return chain.with_prompts(PROMPTS, NEGATIVE)


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
    return chain_of(models, scheduler, steps, sampler, guidance_scale=guidance).denoise(latents)


def slow(models: StableDiffusion, steps: int, **options: Any) -> reference.Chain:
    text, negative = models.encode_prompts(PROMPTS), models.encode_prompts(NEGATIVE)
    return reference.Chain(models.unet, text, negative, steps, **options)


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
    for steps in (4, 5) if config else (2, 7, 15):
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
    for steps in (2, 4, 5, 10, 15, 20, 30):
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


def zero_snr(spacing: str, prediction: str) -> DDIMScheduler:
    """A DDIMScheduler that begins in pure noise, of which diffusers wants no clipping."""
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": spacing, "clip_sample": False}
    return DDIMScheduler(**SD, **options, prediction_type=prediction)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_a_step_out_of_pure_noise_equals_diffusers_scheduler(models64: StableDiffusion, prediction: str) -> None:
    """Lin et al. 2023: zero terminal signal. Only what is predicted as noise is undefined there."""
    scheduler, start = zero_snr("trailing", prediction), randn(2, 4, 8, 8)
    for steps in (2, 4):
        expected = diffusers_loop(models64, scheduler, start, steps, 3.0)
        got = run(models64, scheduler, start[None], steps, "ddim", guidance=3.0)[0]
        # diffusers' table and square roots are float32.
        assert_close(got, expected, 1e-5)


@pytest.mark.parametrize("engine", ["direct", "checkpoint"])
def test_gradients_through_a_step_out_of_pure_noise(models64: StableDiffusion, engine: str) -> None:
    models = replace(models64, scheduler=zero_snr("trailing", "v_prediction"))
    chain = Chain(models, num_inference_steps=3, engine=engine).with_prompts(PROMPTS)
    start = randn(1, 2, 4, 8, 8).requires_grad_(True)
    (gradient,) = torch.autograd.grad(chain.denoise(start).square().sum(), start)
    direction, length = randn(1, 2, 4, 8, 8, seed=1), 1e-5
    with torch.no_grad():
        ends = [chain.denoise(start + sign * length * direction).square().sum() for sign in (1, -1)]
    # Central differences in float64: the error is of second order in the length.
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * length), rel=1e-6)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
@pytest.mark.parametrize(("guidance", "seed"), [(7.5, 3), (1.0, 4), (3.0, 0), (0.0, 1), (0.5, 2)])
@pytest.mark.filterwarnings("ignore:negative prompts are not read")
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
    chain = Chain(models, sampler=sampler, num_inference_steps=6, guidance_scale=guidance)
    latents = first_latents(seed, models.latent_shape())[None, None]
    denoised = chain.with_prompts(["a red cat"], ["a blue house"])(latents)
    assert float(expected.std()) > 0.01  # an image, not a constant
    # float32 through six steps; attention is computed by another kernel.
    torch.testing.assert_close(denoised.images[0].clamp(0, 1), expected.cpu(), atol=2e-5, rtol=0)


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


class GaussianFamily:
    """The exact noise prediction for data N(1, 0.5^2): sampling is then an ODE with a known solution.

    A model of another kind than sgool knows, with nothing of a UNet, a text encoder or an autoencoder in it.
    """

    name, dtype, vae_dtype, device = "gaussian", torch.float64, torch.float64, torch.device("cpu")
    denoisers: Mapping[str, nn.Module] = {}
    num_channels = 1
    defaults = Defaults(20, 1.0)
    mean, variance = 1.0, 0.25

    def cfg_scale(self, guidance_scale: float) -> float:
        return guidance_scale

    def schedule(
        self, num_inference_steps: int, spacing: Spacing, height: int | None = None, width: int | None = None
    ) -> Schedule:
        """From noise over signal 10 to 0.1, by angles of equal distance: smooth steps, so that an order is seen."""
        begin, end = math.atan(10.0), math.atan(0.1)
        angles = [begin + (end - begin) * i / num_inference_steps for i in range(num_inference_steps + 1)]
        scales = [(math.cos(angle), math.sin(angle)) for angle in angles]
        rows = tuple(Step(i, i, *scales[i], *scales[i + 1]) for i in range(num_inference_steps))
        return Schedule(rows, first_order_end=False)

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        return (1, height or 4, width or 4)

    def encode(
        self, prompts: Sequence[str], negative_prompts: Sequence[str] | None, guidance_scale: float, *size: int | None
    ) -> tuple[Conditioning, Conditioning | None]:
        positive, negative = (
            {"length": torch.tensor([[float(len(text))] for text in texts], dtype=self.dtype)} if texts else None
            for texts in (prompts, negative_prompts)
        )
        assert positive is not None
        return positive, negative

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        return ["" for _ in prompts]

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        assert isinstance(conditioning, Mapping) and len(x) == len(conditioning["length"])
        return step.sigma * (x - step.alpha * self.mean) / (step.alpha**2 * self.variance + step.sigma**2)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.expand(-1, 3, -1, -1)

    def encode_images(self, images: Tensor) -> Tensor:
        return images[:, :1]


def error_after(steps: int, name: str, **options: Any) -> float:
    family = GaussianFamily()
    chain = Chain(family, num_inference_steps=steps, sampler=build_sampler(name, **options)).with_prompts(["a"])
    start = randn(1, *chain.latent_shape()).expand(chain.num_streams, 1, 1, 4, 4)
    got, first, last = chain.denoise(start), chain.schedule.steps[0], chain.schedule.steps[-1]
    # z = x / alpha obeys dz/ds = s (z - mean) / (variance + s^2).
    shrink = math.sqrt((family.variance + 0.1**2) / (family.variance + 10.0**2))
    z = family.mean + (start / first.alpha - family.mean) * shrink
    return float((got / last.alpha_prev - z).abs().max())


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
    chain = chain_of(models64, scheduler64(steps_offset=offset), 5, name, split_guidance=split)
    skipped = offset == 0 and name != "dpm_solver"  # whose own spacing does not reach timestep 0
    with torch.no_grad(), forwards(models64.unet) as seen:
        chain.denoise(randn(chain.num_streams, 2, 4, 8, 8))
    expected = (5 - skipped) * chain.num_streams
    assert chain.calls == chain.sampling_calls == expected
    assert seen == ([2] * 2 * expected if split else [4] * expected)


@pytest.mark.parametrize("guidance", [7.5, 0.0])
def test_split_guidance_changes_no_value(models64: StableDiffusion, guidance: float) -> None:
    start = randn(1, 2, 4, 8, 8)
    got, expected = (
        chain_of(models64, scheduler64(), 3, guidance_scale=guidance, split_guidance=split).denoise(start)
        for split in (True, False)
    )
    assert_close(got, expected, 1e-11)


def test_chains_for_prompts_share_all_but_prompts_and_calls(models64: StableDiffusion) -> None:
    chain = Chain(models64, num_inference_steps=2, guidance_scale=3.0, engine="checkpoint", sampler="edict")
    first, second = chain.with_prompts(["a red cat"]), chain.with_prompts(PROMPTS, NEGATIVE)
    for name in ("family", "sampler", "engine", "schedule"):
        assert getattr(first, name) is getattr(second, name) is getattr(chain, name)
    leaf = randn(2, 1, 4, 8, 8).requires_grad_(True)
    first.denoise(leaf).sum().backward()
    assert (first.calls, second.calls, chain.calls) == (8, 0, 0)
    first.calls = 3
    assert first.calls == 3 and chain.sampling_calls == 4
    assert second.optimization_calls(leaf, 2) == 2 * 8 + 4
    with pytest.raises(SgoolError, match=r"this chain has no prompts: call `chain\.with_prompts\(prompts\)`"):
        chain(leaf)


def test_a_chain_without_negative_prompts_takes_empty_ones(models64: StableDiffusion) -> None:
    chain, start = Chain(models64, num_inference_steps=2), randn(1, 2, 4, 8, 8)
    got, expected = chain.with_prompts(PROMPTS), chain.with_prompts(PROMPTS, ["", ""])
    assert torch.equal(got.denoise(start), expected.denoise(start))
    for prompts, negative in (([], None), (PROMPTS, [""])):
        with pytest.raises(SgoolError, match="expected at least one prompt and as many negative ones, got"):
            chain.with_prompts(prompts, negative)


@pytest.mark.parametrize(("decode", "images"), [("both", 2), ("x", 1)])
def test_latents_and_images_of_a_chain(models: StableDiffusion, decode: str, images: int) -> None:
    chain = Chain(models, num_inference_steps=2, sampler="edict", height=24, width=40, decode=decode)
    assert chain.latent_shape() == (4, 6, 10) and chain.latent_shape(width=32) == (4, 6, 8)
    assert (chain.num_streams, chain.num_decoded) == (2, images)
    assert (chain.name, chain.dtype, chain.latents_dtype) == (models.name, torch.float32, torch.float32)
    denoised = chain.with_prompts(PROMPTS)(randn(2, 2, 4, 6, 10).float())
    assert denoised.latents.shape == (2, 2, 4, 6, 10) and denoised.images.shape == (images, 2, 3, 24, 40)
    assert torch.equal(denoised.images[0], chain.decode(denoised.latents[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": "y"}, "`sampler.decode`: expected both or x, got 'y'"),
        ({"height": 30}, r"`models\.height`: expected a multiple of 8"),
        ({"sampler": "heun"}, "`sampler.name`: expected one of ddim"),
        ({"engine": "magic"}, "`engine.name`: expected one of direct"),
        ({"engine": "reversible"}, "reversible needs a sampler with an exact inverse"),
    ],
)
def test_options_are_checked_when_a_chain_is_made(models: StableDiffusion, options: Any, message: str) -> None:
    with pytest.raises(SgoolError, match=message):
        Chain(models, **options)


def test_a_chain_of_a_diffusers_pipeline(pipeline_folder: Path, models: StableDiffusion) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    chain = Chain.from_pipeline(pipeline, num_inference_steps=3).with_prompts(PROMPTS)
    assert chain.family.denoisers["unet"] is pipeline.unet and chain.name == str(pipeline_folder)
    assert not any(parameter.requires_grad for parameter in pipeline.unet.parameters())
    start = randn(1, 2, 4, 8, 8).float()
    loaded = Chain.from_pretrained(pipeline_folder, num_inference_steps=3).with_prompts(PROMPTS)
    # float32 through three steps; attention is computed by another kernel.
    torch.testing.assert_close(chain(start).images, loaded(start).images, atol=2e-5, rtol=0)


def test_a_pipeline_without_a_family_is_refused() -> None:
    message = r"there is no model family for DDPMPipeline; expected .*: stable_diffusion \(StableDiffusionPipeline\)"
    with pytest.raises(SgoolError, match=message):
        Chain.from_pipeline(DDPMPipeline(None, DDIMScheduler()))


def test_conditionings_are_joined_name_by_name() -> None:
    ones, zeros = torch.ones(1, 2), torch.zeros(2, 2)
    joined = concatenate({"a": ones, "b": {"c": zeros[:1]}}, {"a": zeros, "b": {"c": ones}})
    assert isinstance(joined, Mapping) and isinstance(joined["b"], Mapping)
    assert torch.equal(joined["a"], torch.cat([ones, zeros]))
    assert torch.equal(joined["b"]["c"], torch.cat([zeros[:1], ones]))


def test_a_chain_is_made_in_inference_mode_and_differentiated_later(pipeline_folder: Path) -> None:
    """As Lightning's predict, then its fit, do with the same networks."""
    models, leaf = load_models(pipeline_folder), randn(1, 1, 4, 8, 8).float().requires_grad_(True)
    with torch.inference_mode():
        Chain(models, num_inference_steps=2).with_prompts(["a red cat"])(leaf.detach())
    Chain(models, num_inference_steps=2).with_prompts(["a red cat"])(leaf).images.sum().backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all())
