"""The sampler `native`: any linear scheduler of diffusers read out as moves; what is not linear is refused."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers import scheduling_flow_match_euler_discrete
from torch import Tensor

from sgool.diffusion import Chain, build_sampler
from sgool.errors import SgoolError
from sgool.models.family import Defaults
from sgool.models.scheduling import SchedulerRules
from tests.diffusion.families import chain_of, prompted, streams
from tests.diffusion.problem import off, randn
from tests.tiny_families import BETAS, tiny_family

FLOW: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
V: dict[str, Any] = {**BETAS, "prediction_type": "v_prediction"}
#: Class, its settings, steps, options of the sampler, noises with an effect.
SCHEDULERS: list[tuple[str, dict[str, Any], int, dict[str, Any], int]] = [
    ("CogVideoXDDIMScheduler", {"prediction_type": "v_prediction"}, 4, {}, 0),
    ("DDIMParallelScheduler", {**BETAS, "clip_sample": False}, 4, {}, 0),
    ("DDPMParallelScheduler", {"clip_sample": False}, 4, {}, 3),
    ("DDIMScheduler", {**BETAS, "clip_sample": False}, 4, {}, 0),
    ("DDIMScheduler", {**BETAS, "clip_sample": False}, 4, {"eta": 0.7}, 3),
    ("DDPMScheduler", {"clip_sample": False}, 4, {}, 3),
    ("DDPMScheduler", {"clip_sample": False}, 1, {"timesteps": [400]}, 1),
    ("DEISMultistepScheduler", {}, 5, {}, 0),
    ("DPMSolverMultistepScheduler", V, 6, {}, 0),
    ("DPMSolverMultistepScheduler", {**BETAS, "algorithm_type": "sde-dpmsolver++"}, 5, {}, 4),
    ("DPMSolverMultistepScheduler", FLOW, 5, {}, 0),
    ("DPMSolverSinglestepScheduler", {}, 4, {}, 0),
    ("EDMEulerScheduler", {}, 4, {}, 0),
    ("EDMDPMSolverMultistepScheduler", {}, 4, {}, 0),
    ("EulerDiscreteScheduler", {**V, "timestep_spacing": "trailing"}, 4, {}, 0),
    ("EulerDiscreteScheduler", {**BETAS, "use_karras_sigmas": True}, 4, {}, 0),
    ("EulerAncestralDiscreteScheduler", {**BETAS, "timestep_spacing": "trailing"}, 4, {}, 3),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 4, {}, 0),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0}, 3, {"sigmas": [1.0, 0.6, 0.2]}, 0),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, 3, {}, 2),
    ("FlowMatchHeunDiscreteScheduler", {}, 4, {}, 0),
    ("FlowMatchLCMScheduler", {}, 4, {}, 3),
    ("LTXEulerAncestralRFScheduler", {}, 4, {}, 3),
    ("HeunDiscreteScheduler", BETAS, 4, {}, 0),
    ("IPNDMScheduler", {}, 5, {}, 0),
    ("KDPM2AncestralDiscreteScheduler", BETAS, 4, {}, 3),
    ("KDPM2DiscreteScheduler", BETAS, 4, {}, 0),
    ("LCMScheduler", BETAS, 4, {}, 3),
    ("LCMScheduler", BETAS, 1, {"timesteps": [800]}, 0),
    ("LMSDiscreteScheduler", BETAS, 5, {}, 0),
    ("PNDMScheduler", {**BETAS, "skip_prk_steps": True}, 6, {}, 0),
    ("PNDMScheduler", BETAS, 4, {}, 0),
    ("SASolverScheduler", BETAS, 5, {}, 4),
    ("TCDScheduler", BETAS, 3, {"eta": 0.6}, 2),
    ("UniPCMultistepScheduler", BETAS, 6, {}, 0),
    ("UniPCMultistepScheduler", FLOW, 5, {}, 0),
]


class Rules(SchedulerRules):
    """A scheduler without a network: what a family adds to it is tested there."""

    defaults = Defaults(4, 1.0)

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def network(seen: Tensor, timestep: float) -> Tensor:
    """Any function of latents and time, of unit size."""
    return torch.sin(2 * seen + float(timestep) / 300)


def by_the_scheduler(scheduler: Any, steps: int, options: dict[str, Any], seed: int) -> Tensor:
    """As diffusers' pipelines do it, with a list of one generator."""
    generator = [torch.Generator().manual_seed(seed)]
    eta = {"eta": options["eta"]} if "eta" in options else {}
    custom = {name: value for name, value in options.items() if name != "eta"}
    scheduler.set_timesteps(**(custom or {"num_inference_steps": steps}))
    latents = torch.randn((1, 4, 6, 6), generator=generator[0])
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        seen = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        # Not every scheduler takes a generator; without one it draws from the global one, which has the same numbers.
        more = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
        output = network(seen, float(timestep))
        latents = scheduler.step(output, timestep, latents, return_dict=False, **eta, **more)[0]
    return latents


def by_moves(scheduler: Any, steps: int, options: dict[str, Any], seed: int) -> tuple[Tensor, int]:
    """By the moves of the sampler; and how many noises have an effect."""
    sampler, schedule = build_sampler("native", **options).scheduled(Rules(scheduler), steps, None, None)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn((1, 4, 6, 6), generator=generator) for _ in range(1 + 2 * steps)]
    state = sampler.begin(torch.stack([drawn[0], *(drawn[1 + draw] for draw in sampler.noises)]))
    for move in sampler.moves(schedule):
        state = move.apply(state, network(state[move.source], move.step.timestep) if move.calls_network else None)
    (final,) = sampler.finish(state)
    assert len(state) == 1
    return final, len(sampler.noises)


@pytest.mark.parametrize(("kind", "settings", "steps", "options", "noises"), SCHEDULERS)
def test_a_scheduler_as_moves(
    kind: str, settings: dict[str, Any], steps: int, options: dict[str, Any], noises: int
) -> None:
    if not hasattr(diffusers, kind):
        pytest.skip(f"this diffusers has no {kind}")
    scheduler = getattr(diffusers, kind)(**settings)
    got, found = by_moves(scheduler, steps, options, 5)
    assert found == noises
    if settings.get("stochastic_sampling") and not hasattr(scheduling_flow_match_euler_discrete, "randn_tensor"):
        pytest.skip("this diffusers draws the noise without the generator that it is given")
    # float32, as the noises are drawn: the arithmetic is in another order, and this network enlarges its rounding.
    assert off(got, by_the_scheduler(scheduler, steps, options, 5)) <= 2e-5


def test_the_scheduler_itself_is_not_changed() -> None:
    scheduler = diffusers.UniPCMultistepScheduler(**BETAS)
    before = repr(vars(scheduler))
    by_moves(scheduler, 3, {}, 0)
    assert repr(vars(scheduler)) == before


@pytest.mark.parametrize(
    ("kind", "widest"), [("EulerDiscreteScheduler", 1), ("DPMSolverMultistepScheduler", 3), ("PNDMScheduler", 4)]
)
def test_only_what_a_scheduler_remembers_is_kept(kind: str, widest: int) -> None:
    scheduler = getattr(diffusers, kind)(**BETAS, **({"skip_prk_steps": True} if kind == "PNDMScheduler" else {}))
    sampler, schedule = build_sampler("native").scheduled(Rules(scheduler), 8, None, None)  # type: ignore[attr-defined]
    assert max(len(move.matrix) for move in sampler.moves(schedule)) == widest


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (
            "DDIMScheduler",
            {"clip_sample": True},
            "got DDIMScheduler with clip_sample, which cuts off .*switch it off .*clip_sample: false",
        ),
        (
            "DDPMScheduler",
            {"clip_sample": False, "thresholding": True},
            "DDPMScheduler with thresholding, which cuts off",
        ),
        ("CogVideoXDPMScheduler", {}, r"that of CogVideoXDPMScheduler takes model_output, .*, timestep, timestep_back"),
        ("CMStochasticIterativeScheduler", {}, r"got CMStochasticIterativeScheduler; use sampler=ddim"),
    ],
)
def test_a_scheduler_that_is_not_linear_is_refused(kind: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SgoolError, match=words):
        by_moves(getattr(diffusers, kind)(**settings), 4, {}, 0)


@pytest.mark.parametrize(
    ("options", "steps", "words"),
    [
        ({"eta": 1.5}, 4, r"`sampler\.eta`: expected a number in \[0, 1\], got 1\.5"),
        ({"eta": 0.5}, 4, r"`sampler\.eta`: expected 0, since EulerDiscreteScheduler takes no eta"),
        ({"timesteps": [9, 5], "sigmas": [1, 0.5]}, 2, r"expected one of the two at most, got both"),
        (
            {"timesteps": [999, 499, 0]},
            2,
            r"`sampler\.num_inference_steps`: expected 3, as many as `sampler\.timesteps`",
        ),
    ],
)
def test_options_that_a_scheduler_does_not_take(options: dict[str, Any], steps: int, words: str) -> None:
    with pytest.raises(SgoolError, match=words):
        by_moves(diffusers.EulerDiscreteScheduler(**BETAS), steps, options, 0)
    if "sigmas" not in options and "timesteps" in options:
        with pytest.raises(SgoolError, match=r"`sampler\.timesteps`: expected null, since PNDMScheduler takes no time"):
            by_moves(diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True), 3, options, 0)


def test_noises_are_given_by_the_chain_or_with_the_latents() -> None:
    chain = prompted("sdxl_turbo", range(2), torch.float64)
    whole = streams(chain, range(2))
    assert chain.num_streams == chain.num_decoded == 1 and chain.noise_draws == (0, 1, 2)
    with torch.no_grad():
        by_latents = chain.denoise(whole)
        by_chain = chain.with_noises(whole[1:]).denoise(whole[:1])
    assert torch.equal(by_chain, by_latents) and len(by_latents) == 1
    with pytest.raises(SgoolError, match=r"adds 3 noises on the way: call `chain\.with_noises\(noises\)`"):
        chain.denoise(whole[:1])
    with pytest.raises(SgoolError, match="`noises`: expected 3, those of native, got 2"):
        chain.with_noises(whole[:2])
    with pytest.raises(SgoolError, match=r"native expects shape \(4, 2, 4, h, w\)"):
        chain.denoise(whole[:3])


def test_first_latents_alone_have_a_gradient_if_the_chain_has_the_noises() -> None:
    chain = prompted("sdxl_turbo", range(1), torch.float64)
    whole = streams(chain, range(1))
    both = []
    for start in (whole, whole[:1]):
        leaf = start.clone().requires_grad_(True)
        latents = chain.with_noises(whole[1:]).denoise(leaf)
        both.append(torch.autograd.grad(latents.square().sum(), leaf)[0])
    assert torch.equal(both[0][:1], both[1]) and float(both[0][1:].abs().min(dim=0).values.max()) > 0


def test_a_chain_counts_what_it_calls() -> None:
    chain = prompted("sd_lcm", range(1), torch.float64).with_noises(randn(3, 1, 4, 8, 8))
    start = randn(1, 1, 4, 8, 8).requires_grad_(True)
    chain.denoise(start).sum().backward()
    assert (chain.sampling_calls, chain.calls) == (4, 8)
    assert chain.optimization_calls(start.detach(), 2) == 2 * 8 + 4


def test_defaults_are_those_of_the_pipelines_call() -> None:
    chain = Chain.from_pipeline(
        tiny_family("sana_sprint"), num_inference_steps=None, guidance_scale=None, sampler="native", height=32, width=32
    )
    assert (chain.num_inference_steps, chain.guidance_scale, chain.cfg_scale) == (2, 4.5, 1.0)


def test_the_sampler_alone_knows_no_steps() -> None:
    with pytest.raises(SgoolError, match="native reads the steps of a model's scheduler; give it to a `Chain`"):
        build_sampler("native").moves(chain_of("sd").schedule)


def test_a_scheduler_that_draws_without_end_is_refused() -> None:
    class Restless(diffusers.DDPMScheduler):
        """Draws ten noises a step."""

        def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
            for _ in range(9):
                torch.randn(1)
            return super().step(model_output, timestep, sample, **options)

    with pytest.raises(SgoolError, match="Restless draws noise too often to be read out"):
        by_moves(Restless(clip_sample=False), 4, {}, 0)
