"""Flow matching: samplers on straight paths, against solutions by hand and diffusers' schedulers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from sgool.diffusion import Chain, build_sampler
from sgool.errors import SgoolError
from sgool.models.family import Conditioning
from sgool.models.flow import FLOW, flow_schedule
from sgool.models.schedule import Schedule, Spacing, Step
from tests.diffusion.families import prompted
from tests.diffusion.problem import off, randn
from tests.diffusion.test_chain import GaussianFamily


def test_a_schedule_has_the_schedulers_levels() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    schedule = flow_schedule(scheduler)
    assert schedule.prediction_type == FLOW and len(schedule) == 4
    assert [step.timestep for step in schedule.steps] == scheduler.timesteps.tolist()
    assert [step.sigma for step in schedule.steps] == scheduler.sigmas[:-1].tolist()
    for step in schedule.steps:
        assert step.alpha == 1 - step.sigma and step.alpha_prev == 1 - step.sigma_prev
    first, last = schedule.steps[0], schedule.steps[-1]
    assert (first.alpha, first.sigma, last.alpha_prev, last.sigma_prev) == (0, 1, 1, 0)


def test_a_scheduler_with_two_calls_a_step_has_none() -> None:
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(SgoolError, match=r"one noise level a step.*FlowMatchHeunDiscreteScheduler.*use sampler=native"):
        flow_schedule(scheduler)


@pytest.mark.parametrize("name", ["sd3", "sd3_shifted", "flux_dev", "flux_schnell"])
def test_ddim_on_a_flow_is_the_models_own_euler(name: str) -> None:
    start = randn(1, 3, *prompted(name).latent_shape())
    with torch.no_grad():
        got, own = (
            prompted(name, dtype=torch.float64, sampler=sampler).denoise(start) for sampler in ("ddim", "native")
        )
    # diffusers rounds the lengths of the steps to float32.
    assert off(got, own) <= 1e-6


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
def test_dpm_solver_on_a_flow_is_diffusers_own(steps: int) -> None:
    """Sana's scheduler is DPM-Solver++ on a flow; from 15 steps on its last step is of second order unless it ends."""
    start = randn(1, 3, *prompted("sana").latent_shape())
    options: dict[str, Any] = {"dtype": torch.float64, "steps": steps}
    with torch.no_grad():
        got, own = (prompted("sana", sampler=sampler, **options).denoise(start) for sampler in ("dpm_solver", "native"))
    # As above, amplified by this random network.
    assert off(got, own) <= 1e-4


class GaussianFlow(GaussianFamily):
    """The exact velocity for data N(1, 0.5^2), from pure noise on."""

    def schedule(
        self, num_inference_steps: int, spacing: Spacing, height: int | None = None, width: int | None = None
    ) -> Schedule:
        levels = [1 - 0.9 * i / num_inference_steps for i in range(num_inference_steps + 1)]
        rows = enumerate(pairwise(levels))
        return Schedule(tuple(Step(i, i, 1 - s, s, 1 - t, t) for i, (s, t) in rows), FLOW, first_order_end=False)

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        away = (x - step.alpha * self.mean) / (step.alpha**2 * self.variance + step.sigma**2)
        return step.sigma * away - (self.mean + step.alpha * self.variance * away)


def error_after(steps: int, name: str, **options: Any) -> float:
    family = GaussianFlow()
    chain = Chain(family, num_inference_steps=steps, sampler=build_sampler(name, **options)).with_prompts(["a"])
    start = randn(1, *chain.latent_shape()).expand(chain.num_streams, 1, 1, 4, 4)
    # (x - (1 - s) mean) over its deviation stays as it is along the flow; it is x itself at s = 1.
    expected = 0.9 * family.mean + start * math.sqrt(0.9**2 * family.variance + 0.1**2)
    return float((chain.denoise(start) - expected).abs().max())


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("edict", 1), ("belm", 2), ("bdia", 2), ("dpm_solver", 2)])
def test_order_of_convergence(name: str, order: int) -> None:
    errors = [error_after(steps, name) for steps in (80, 160, 320)]
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.1


@pytest.mark.parametrize("name", ["edict", "belm", "bdia"])
def test_invertible_samplers_invert_a_flow(name: str) -> None:
    chain = prompted("sd3_shifted", dtype=torch.float64, sampler=name, steps=4, decode="x")
    final = randn(1, 3, *chain.latent_shape())
    inversion = chain.invert_latents(final)
    assert inversion.exact
    assert off(chain.denoise(inversion.latents)[:1], final) <= 1e-9
    start = randn(chain.num_streams, 3, *chain.latent_shape())
    gradients = []
    for engine in ("direct", "reversible"):
        leaf = start.clone().requires_grad_(True)
        again = prompted("sd3_shifted", dtype=torch.float64, sampler=name, steps=4, decode="x", engine=engine)
        gradients.append(torch.autograd.grad(again.denoise(leaf).square().sum(), leaf)[0])
    assert off(gradients[1], gradients[0]) <= 1e-8
