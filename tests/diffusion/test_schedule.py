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
    HeunDiscreteScheduler,
    IPNDMScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
)

from sgool.diffusion import build_sampler
from sgool.diffusion.budget import network_calls
from sgool.errors import SgoolError
from sgool.models.schedule import Step, build_schedule, respaced

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("steps", [2, 5, 7, 20, 50, 300])
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


@pytest.mark.parametrize("steps", [7, 20, 300])
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


#: The end of ``alphas_cumprod`` with zero terminal signal is 0 in the first class and 2**-24 in the others.
@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_zero_terminal_signal_is_refused_where_it_is_reached_and_the_noise_is_predicted(
    kind: Any, spacing: str
) -> None:
    zero: dict[str, Any] = {**SD, "rescale_betas_zero_snr": True, "timestep_spacing": spacing}
    for rule in ("ddim", "dpm"):
        with pytest.raises(SgoolError, match=r"rescale_betas_zero_snr.*models\.timestep_spacing=leading"):
            build_schedule(kind(**zero), 4, rule)
        with pytest.raises(SgoolError, match=r"and take more sampler\.num_inference_steps than 1"):
            build_schedule(kind(**zero), 1, rule)
    assert len(build_schedule(kind(**zero | {"timestep_spacing": "leading"}), 4)) == 4
    for prediction in ("v_prediction", "sample"):
        scheduler = kind(**zero, prediction_type=prediction)
        for rule in ("ddim", "dpm"):
            first = build_schedule(scheduler, 4, rule).steps[0]
            assert first.timestep == 999 and first.from_pure_noise
            # 2**-12, and dpm's numbers are float32.
            assert (first.alpha, first.sigma) == (pytest.approx(0, abs=2.5e-4), pytest.approx(1, abs=1e-7))
        for name in ("edict", "belm", "bdia"):
            with pytest.raises(SgoolError, match=r"begins in pure noise.*sampler=ddim"):
                build_sampler(name).moves(build_schedule(scheduler, 4))
        (move, *_) = build_sampler("ddim").moves(build_schedule(scheduler, 4))
        assert max(abs(move.matrix[0][0]), abs(move.output[0])) <= 1  # nothing is blown up


@pytest.mark.parametrize("kind", [LCMScheduler, TCDScheduler, HeunDiscreteScheduler])
def test_the_noise_is_that_of_the_folders_class(kind: Any) -> None:
    """A file leaves out what the class takes by default, and other classes have other defaults (betas, for one)."""
    scheduler = kind()
    schedule = build_schedule(scheduler, 4, "dpm")
    levels = [float(scheduler.alphas_cumprod[int(step.timestep)]) for step in schedule.steps]
    assert [step.alpha**2 for step in schedule.steps] == pytest.approx(levels, rel=1e-5)  # float32
    assert respaced(LCMScheduler(), timestep_spacing="trailing").alphas_cumprod.equal(LCMScheduler().alphas_cumprod)


@pytest.mark.parametrize("kind", [LCMScheduler, TCDScheduler])
@pytest.mark.parametrize("spacing", ["ddim", "dpm"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 50])
def test_a_distilled_model_has_the_timesteps_of_its_distillation(kind: Any, spacing: Any, steps: int) -> None:
    """999, 759, 499, 259 in four steps; the rule "leading" would give 751, 501, 251, 1."""
    scheduler = kind(**SD, set_alpha_to_one=False)
    schedule = build_schedule(scheduler, steps, spacing)
    scheduler.set_timesteps(steps)
    assert [step.timestep for step in schedule.steps] == scheduler.timesteps.tolist()
    assert steps != 4 or scheduler.timesteps.tolist() == [999, 759, 499, 259]
    # The last step of these schedulers adds no noise to the image that they predict.
    assert (schedule.steps[-1].alpha_prev, schedule.steps[-1].sigma_prev) == (1, 0)
    # dpm's numbers are float32.
    levels = [float(scheduler.alphas_cumprod[int(step.timestep)]) for step in schedule.steps]
    assert [step.alpha**2 for step in schedule.steps] == pytest.approx(levels, rel=1e-6 if spacing == "dpm" else 1e-14)


def test_more_steps_than_a_distilled_model_has() -> None:
    with pytest.raises(SgoolError, match=r"expected 1 to 50, the `original_inference_steps` of the model's LCMSched"):
        build_schedule(LCMScheduler(**SD), 51)


@pytest.mark.parametrize(
    ("kind", "timesteps"),
    [
        (DDIMScheduler, [750, 500, 250, 0]),
        (PNDMScheduler, [750, 500, 250, 0]),
        # Where these schedulers' own files name no spacing, they are spaced evenly from the last timestep to the first.
        (EulerDiscreteScheduler, [999, 666, 333, 0]),
        (DPMSolverMultistepScheduler, [999, 666, 333, 0]),
    ],
)
def test_a_spacing_that_the_folder_does_not_name_is_its_schedulers(kind: Any, timesteps: list[int]) -> None:
    scheduler = kind(**SD)
    assert [step.timestep for step in build_schedule(scheduler, 4).steps] == timesteps
    saved = kind.from_config(dict(scheduler.config))  # as diffusers writes and reads it
    assert build_schedule(saved, 4) == build_schedule(scheduler, 4)


@pytest.mark.parametrize("spacing", ["ddim", "dpm"])
def test_trailing_has_as_many_timesteps_as_steps(spacing: Any) -> None:
    """61, 103, ... steps: diffusers' own list ends with a -1 too much, by a rounding error."""
    scheduler = DDIMScheduler(**SD, timestep_spacing="trailing", set_alpha_to_one=False)
    for steps in (61, 103, 999):
        schedule = build_schedule(scheduler, steps, spacing)
        timesteps = [step.timestep for step in schedule.steps]
        assert len(timesteps) == steps and timesteps[0] == 999 and min(timesteps) >= 0
        levels = [step.alpha for step in schedule.steps] + [schedule.steps[-1].alpha_prev]
        assert levels == sorted(levels)


@pytest.mark.parametrize("name", ["ddim", "edict", "belm", "bdia", "dpm_solver"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_one_step_goes_from_the_end_of_the_schedule_to_no_noise(name: str, spacing: str, offset: int) -> None:
    scheduler = DDIMScheduler(**SD, timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=False)
    sampler = build_sampler(name)
    schedule = build_schedule(scheduler, 1, sampler.spacing)
    (step,) = schedule.steps
    level = float(scheduler.alphas_cumprod[999])
    assert step.timestep == 999 and step.alpha**2 == pytest.approx(level, rel=1e-6)
    assert (step.alpha_prev, step.sigma_prev) == (1, 0)
    # x0 = (x - sigma eps) / alpha is all that is left, in the first stream.
    move = next(move for move in sampler.moves(schedule) if move.calls_network)
    assert sum(move.matrix[0]) == pytest.approx(level**-0.5, rel=1e-6)
    assert move.output[0] == pytest.approx(-(((1 - level) / level) ** 0.5), rel=1e-6)


def test_the_schedule_of_doodls_code() -> None:
    """github.com/salesforce/DOODL, `my_half_diffusers`: np.arange(0, 1000, 20)[::-1], 980 ... 0, without an offset."""
    folder = DDIMScheduler(**SD, steps_offset=1, set_alpha_to_one=False)
    restored = respaced(folder, steps_offset=0)
    schedule = build_schedule(restored, 50)
    assert [step.timestep for step in schedule.steps] == list(range(980, -1, -20))
    assert [step.timestep for step in build_schedule(folder, 50).steps] == list(range(981, 0, -20))
    assert not schedule.steps[-1].has_effect and folder.config.steps_offset == 1 and respaced(folder) is folder


def test_another_spacing_than_the_folders() -> None:
    for scheduler in (PNDMScheduler(**SD, steps_offset=1), LCMScheduler(**SD), EulerDiscreteScheduler(**SD)):
        trailing = respaced(scheduler, timestep_spacing="trailing")
        assert [step.timestep for step in build_schedule(trailing, 4).steps] == [999, 749, 499, 249]
    distilled = LCMScheduler(**SD)
    assert respaced(distilled, steps_offset=0) is distilled  # its list has no offset
    with pytest.raises(SgoolError, match=r"`models\.steps_offset`: expected null, since IPNDMScheduler has no steps_"):
        respaced(IPNDMScheduler(), steps_offset=1)
    for scheduler in (IPNDMScheduler(), FlowMatchEulerDiscreteScheduler()):
        assert respaced(scheduler, steps_offset=0) is scheduler  # as `optimization=doodl` asks


def test_steps_are_values() -> None:
    step = Step(0, 981, 0.3, 0.95, 0.4, 0.9)
    with pytest.raises(FrozenInstanceError):
        step.index = 1  # type: ignore[misc]
