"""What holds for any size of latents, number of steps and guidance: inverse, gradient, number of calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sgool.models.stable_diffusion import StableDiffusion
from tests.diffusion.problem import Problem, off

# The tiny UNet halves its input once, so sides are even.
SIDES = st.sampled_from([4, 6, 8, 10])
PREDICTIONS = st.sampled_from(["epsilon", "v_prediction", "sample"])
GUIDANCE = st.one_of(st.just(1.0), st.floats(0, 9, allow_nan=False))
FEW = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,  # the same examples in every run
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def invertible(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A sampler with an exact inverse, and its options."""
    name = draw(st.sampled_from(["edict", "belm", "bdia"]))
    weight = draw(st.floats(0.5, 1, exclude_min=True))
    if name == "edict":
        return name, {"mixing_coeff": weight, "leapfrog": draw(st.booleans())}
    return name, {"gamma": weight} if name == "bdia" else {}


def amplification(problem: Problem) -> float:
    """How much undoing the linear part of all moves can enlarge rounding, in the largest entry; at least 1.

    For EDICT a little above p^-2S; for O-BELM the short last step of offset 1 alone gives up to 3e3.
    """
    norms = []
    for move in problem.moves:
        assert move.inverse_matrix is not None
        norms.append(max(sum(map(abs, row)) for row in move.inverse_matrix))
    return math.prod(max(norm, 1.0) for norm in norms)


@FEW
@example(("edict", {"mixing_coeff": 0.500001, "leapfrog": True}), (4, 10), 12, 9.0, "epsilon", 1)
@example(("belm", {}), (6, 4), 2, 7.5, "sample", 1)
@example(("belm", {}), (4, 4), 1, 3.0, "epsilon", 0)
@given(invertible(), st.tuples(SIDES, SIDES), st.integers(1, 12), GUIDANCE, PREDICTIONS, st.sampled_from([0, 1]))
def test_reversible_is_exact_and_invertible(
    models64: StableDiffusion,
    sampler: tuple[str, dict[str, Any]],
    size: tuple[int, int],
    steps: int,
    guidance: float,
    prediction: str,
    offset: int,
) -> None:
    name, options = sampler
    problem = Problem(models64, name, steps, guidance, prediction, offset=offset, size=size, **options)
    # Rounding (2e-16) of a call times guidance and the network's slope, amplified by what comes after it: 1.3e-14 seen.
    tolerance = 2e-13 * amplification(problem)
    assert off(problem.gradient("reversible"), problem.gradient("checkpoint")) <= tolerance

    chain = problem.chain()
    inversion = chain.invert_latents(torch.stack(chain.run_state(problem.start)))
    assert inversion.exact
    assert off(inversion.latents, torch.stack(problem.sampler.begin(problem.start))) <= tolerance


@FEW
@given(
    st.sampled_from(["ddim", "edict", "belm", "bdia", "dpm_solver"]),
    st.tuples(SIDES, SIDES),
    st.integers(1, 12),
    GUIDANCE,
    st.sampled_from([0, 1]),
    st.booleans(),
)
def test_number_of_calls(
    models64: StableDiffusion,
    sampler: str,
    size: tuple[int, int],
    steps: int,
    guidance: float,
    offset: int,
    split: bool,
) -> None:
    problem = Problem(models64, sampler, steps, guidance, offset=offset, size=size, split=split)
    # With offset 0 the last step of several stands at t = 0, where nothing is left to do for DDIM's timesteps.
    moving = steps if offset or steps == 1 or sampler == "dpm_solver" else steps - 1
    calls = 2 * moving if sampler == "edict" else moving
    chain = problem.chain("checkpoint")
    assert chain.sampling_calls == calls
    with torch.no_grad():
        final = problem.value(problem.start, chain)
    assert chain.calls == calls and math.isfinite(float(final))
    problem.gradient(chain)
    assert chain.calls == 3 * calls


@pytest.mark.parametrize("p", [0.6, 0.93])
def test_amplification_of_edict_is_that_of_the_paper(models64: StableDiffusion, p: float) -> None:
    """The bound used above is no looser than a factor a step over p^-2."""
    problem = Problem(models64, "edict", 5, mixing_coeff=p)
    assert p**-10 <= amplification(problem) <= (3 / p**2) ** 5
