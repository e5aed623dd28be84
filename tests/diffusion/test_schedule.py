"""Timesteps and noise levels, against what diffusers' own schedulers have."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from sgool.diffusion import build_sampler
from sgool.diffusion.budget import network_calls
from sgool.errors import SgoolError
from sgool.models.schedule import Step, build_schedule

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 20, 50, 300])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("to_one", [False, True])
def test_equals_what_diffusers_reads_from_its_scheduler(steps: int, offset: int, to_one: bool) -> None:
    scheduler = DDIMScheduler(**SD, steps_offset=offset, set_alpha_to_one=to_one, clip_sample=False)
    schedule = build_schedule(scheduler, steps)
    scheduler.set_timesteps(steps)
    assert [step.timestep for step in schedule.steps] == scheduler.timesteps.tolist()
    assert [step.index for step in schedule.steps] == list(range(steps)) and len(schedule) == steps
    for step in schedule.steps:
        previous = step.timestep - 1000 // steps
        expected = scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.final_alpha_cumprod
        before, after = float(scheduler.alphas_cumprod[int(step.timestep)]), float(expected)
        assert (step.alpha, step.sigma) == (before**0.5, (1 - before) ** 0.5)
        assert (step.alpha_prev, step.sigma_prev) == (after**0.5, (1 - after) ** 0.5)


def test_scheduler_is_left_alone() -> None:
    scheduler = DDIMScheduler(**SD)
    scheduler.set_timesteps(10)
    before = scheduler.timesteps.clone(), dict(scheduler.config)
    build_schedule(scheduler, 4)
    assert scheduler.num_inference_steps == 10
    assert (scheduler.timesteps.equal(before[0]), dict(scheduler.config)) == (True, before[1])


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [3, 7, 11, 1000])
def test_each_step_begins_where_the_last_one_ended(spacing: str, steps: int) -> None:
    """Also where the number of steps does not divide 1000 and a rounded quotient would leave gaps."""
    schedule = build_schedule(DDIMScheduler(**SD, timestep_spacing=spacing, steps_offset=1), steps)
    assert [step.sigma_prev for step in schedule.steps[:-1]] == [step.sigma for step in schedule.steps[1:]]
    ends = [step.alpha_prev for step in schedule.steps]
    assert ends[:-1] == [step.alpha for step in schedule.steps[1:]]
    assert ends == sorted(ends) and ends[-1] == 1.0  # DDIMScheduler's own default: set_alpha_to_one
    assert all(0 <= step.timestep < 1000 for step in schedule.steps)


@pytest.mark.parametrize("kind", [PNDMScheduler, EulerDiscreteScheduler])
def test_other_schedulers_of_the_same_noise(kind: Any) -> None:
    scheduler = kind(**SD, timestep_spacing="leading", steps_offset=1, prediction_type="v_prediction")
    schedule = build_schedule(scheduler, 4)
    assert [step.timestep for step in schedule.steps] == [751, 501, 251, 1]
    assert schedule.prediction_type == "v_prediction"
    table = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    # The schedulers' tables are float32: 1e-7 relative times 1000 products.
    assert [step.alpha**2 for step in schedule.steps] == pytest.approx(table[[751, 501, 251, 1]].tolist(), rel=1e-5)


def test_a_float64_table_stays_float64() -> None:
    scheduler = DDIMScheduler(**SD, set_alpha_to_one=False, steps_offset=0)
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(0.03, 0.1, 1000, dtype=torch.float64) ** 2, 0)
    last = build_schedule(scheduler, 10).steps[-1]
    assert last.alpha == last.alpha_prev == float(scheduler.alphas_cumprod[0]) ** 0.5 and not last.has_effect


@pytest.mark.parametrize("steps", [1, 7, 20, 300])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"timestep_spacing": "leading", "steps_offset": 1},
        {"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"},
        {"use_karras_sigmas": True},
    ],
)
def test_dpm_spacing_equals_diffusers_solver(steps: int, config: dict[str, Any]) -> None:
    scheduler = DPMSolverMultistepScheduler(**SD, **config)
    schedule = build_schedule(scheduler, steps, "dpm")
    scheduler.set_timesteps(steps)
    assert [step.timestep for step in schedule.steps] == scheduler.timesteps.tolist()
    alphas = [step.alpha for step in schedule.steps] + [schedule.steps[-1].alpha_prev]
    # diffusers' own conversion, in float32.
    expected = [float(scheduler._sigma_to_alpha_sigma_t(sigma)[0]) for sigma in scheduler.sigmas]
    assert alphas == pytest.approx(expected, rel=1e-6)
    assert [step.alpha_prev for step in schedule.steps] == alphas[1:]
    assert schedule.steps[-1].alpha_prev == 1 or config.get("final_sigmas_type") == "sigma_min"


@pytest.mark.parametrize(
    ("config", "steps", "first_order"),
    [
        ({}, 14, True),
        ({}, 15, False),
        ({"euler_at_final": True}, 15, True),
        ({"lower_order_final": False}, 14, False),
    ],
)
def test_when_a_multistep_solver_ends_in_first_order(config: dict[str, Any], steps: int, first_order: bool) -> None:
    scheduler = DPMSolverMultistepScheduler(**SD, **config)
    assert build_schedule(scheduler, steps, "dpm").first_order_end is first_order


def test_dpm_spacing_of_a_model_with_another_scheduler() -> None:
    """As a pipeline's scheduler is exchanged: by the config that both have in common."""
    shared = {"timestep_spacing": "leading", "steps_offset": 1, "prediction_type": "v_prediction"}
    ddim = DDIMScheduler(**SD, **shared, clip_sample=False)
    other = DPMSolverMultistepScheduler.from_config(ddim.config)
    schedule = build_schedule(ddim, 10, "dpm")
    other.set_timesteps(10)
    assert [step.timestep for step in schedule.steps] == other.timesteps.tolist() and other.timesteps[-1] == 91
    assert schedule.prediction_type == "v_prediction"


@pytest.mark.parametrize("name", ["ddim", "edict", "belm", "bdia", "dpm_solver"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_as_many_steps_as_in_training(name: str, spacing: str, offset: int) -> None:
    sampler = build_sampler(name)
    scheduler = DDIMScheduler(**SD, timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=False)
    schedule = build_schedule(scheduler, 1000, sampler.spacing)
    timesteps = [step.timestep for step in schedule.steps]
    assert len(timesteps) == 1000 and timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] == 999 and 0 <= timesteps[-1] <= 1
    levels = [step.alpha for step in schedule.steps] + [schedule.steps[-1].alpha_prev]
    assert levels == sorted(levels)
    # Finite coefficients, also of the steps that stand still where two timesteps are the same.
    moves = sampler.moves(schedule)
    numbers = [weight for move in moves for row in (*move.matrix, move.output) for weight in row]
    assert torch.isfinite(torch.tensor(numbers, dtype=torch.float64)).all()
    assert 998 * sampler.num_streams <= network_calls(moves) <= 1000 * sampler.num_streams


@pytest.mark.parametrize("steps", [2.5, True])
def test_number_of_steps_that_is_no_whole_number(steps: Any) -> None:
    with pytest.raises(SgoolError, match=rf"num_inference_steps`: expected a whole number, got {steps!r}"):
        build_schedule(DDIMScheduler(**SD), steps)


@pytest.mark.parametrize("spacing", ["ddim", "dpm"])
@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_number_of_steps_out_of_range(steps: int, spacing: Any) -> None:
    with pytest.raises(SgoolError, match=rf"num_inference_steps`: expected 1 to 1000, got {steps}"):
        build_schedule(DDIMScheduler(**SD), steps, spacing)


def test_flow_matching_is_refused() -> None:
    with pytest.raises(SgoolError, match=r"`alphas_cumprod`.*got FlowMatchEulerDiscreteScheduler"):
        build_schedule(FlowMatchEulerDiscreteScheduler(), 4)


def test_zero_terminal_signal_is_refused_where_it_is_reached() -> None:
    zero: dict[str, Any] = {**SD, "rescale_betas_zero_snr": True}
    with pytest.raises(SgoolError, match=r"rescale_betas_zero_snr.*leading in DDIMScheduler"):
        build_schedule(DDIMScheduler(**zero, timestep_spacing="trailing"), 4)
    assert len(build_schedule(DDIMScheduler(**zero), 4)) == 4


def test_steps_are_values() -> None:
    step = Step(0, 981, 0.3, 0.95, 0.4, 0.9)
    with pytest.raises(FrozenInstanceError):
        step.index = 1  # type: ignore[misc]
