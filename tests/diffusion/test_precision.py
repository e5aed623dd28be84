"""Gradients in mixed and low precision, and the guard of `reversible` against drift."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.diffusion import build_engine
from sgool.diffusion.drift import DriftGuard, relative_drift
from sgool.errors import SgoolError
from sgool.models.load import load_models
from sgool.models.stable_diffusion import StableDiffusion
from tests.diffusion.problem import Problem, off, randn

BFLOAT16, FLOAT32, FLOAT64 = torch.bfloat16, torch.float32, torch.float64
SAMPLERS = ("ddim", "edict", "belm", "dpm_solver")


@pytest.fixture(scope="module")
def models16(pipeline_folder: Path) -> StableDiffusion:
    return load_models(pipeline_folder, dtype=BFLOAT16)


def norm_off(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the norm expected."""
    return float((got - expected).norm() / expected.norm())


def autocast() -> torch.autocast:
    return torch.autocast("cpu", BFLOAT16)


def keeping_all() -> Any:
    return build_engine("checkpoint", memory_mib=1000)


def gradient(problem: Problem, engine: Any, forward: bool, backward: bool) -> Tensor:
    """With autocast around the forward pass, and around the backward pass."""
    leaf = problem.leaf()
    with autocast() if forward else nullcontext():
        value = problem.value(leaf, engine)
    with autocast() if backward else nullcontext():
        value.backward()
    assert leaf.grad is not None and leaf.grad.dtype == problem.start.dtype
    return leaf.grad


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_checkpoint_recomputes_under_the_callers_autocast(
    models: StableDiffusion, sampler: str, backward: bool
) -> None:
    problem = Problem(models, sampler, 4, dtype=FLOAT32)
    expected = gradient(problem, "direct", True, backward)
    # Recomputed in float32, activations would differ by bfloat16's 4e-3, as those of a run without autocast do.
    assert off(gradient(problem, "direct", False, False), expected) > 1e-2
    for engine in ("checkpoint", keeping_all()):
        # The same kernels see the same numbers; float32 sums in another order, 1e-7. 2e-7 seen.
        assert off(gradient(problem, engine, True, backward), expected) <= 1e-5


def test_an_autocast_around_backward_alone_does_not_reach_the_recomputation(models: StableDiffusion) -> None:
    problem = Problem(models, "edict", 3, dtype=FLOAT32)
    expected = gradient(problem, "direct", False, True)
    # PyTorch runs the backward formulas themselves in bfloat16 then, for both engines: roundings of 4e-3 in some
    # products, 5e-4 seen. Activations recomputed in bfloat16 would give the gradient of another function.
    assert off(gradient(problem, "direct", True, True), expected) > 3e-2
    assert off(gradient(problem, "checkpoint", False, True), expected) <= 5e-3


def test_reversible_under_autocast(models: StableDiffusion) -> None:
    """EDICT's latents come back to some eps of float32, so that most casts to bfloat16 round as they did."""
    problem = Problem(models, "edict", 4, dtype=FLOAT32)
    expected = gradient(problem, "direct", True, False)
    exact = Problem(models, "edict", 4, dtype=FLOAT32).gradient("direct")
    # The few that round the other way cost no more than bfloat16 itself does.
    assert off(gradient(problem, "reversible", True, False), expected) <= off(expected, exact)


def test_states_are_stored_where_undoing_would_lose_digits(models: StableDiffusion) -> None:
    """O-BELM's last step with SD's steps_offset of 1 is so short that undoing it enlarges errors 600 times."""
    problem = Problem(models, "belm", 10, dtype=FLOAT32)
    worst = sorted(move.amplification for move in problem.sampler.moves(problem.schedule))
    assert worst[-1] > 100 and worst[-2] < 10
    # float32's eps of 1e-7 times the remaining moves' amplification; 3e-2 without the stored state.
    assert off(problem.gradient("reversible"), problem.gradient("direct")) <= 2e-4


@pytest.mark.parametrize("half", ["autocast", "weights"])
def test_reversible_with_half_precision_fails_where_casts_round_differently(
    models: StableDiffusion, models16: StableDiffusion, half: str
) -> None:
    """O-BELM enlarges float32's rounding on the way back until casts to bfloat16 no longer round as they did."""
    problem = Problem(models16 if half == "weights" else models, "belm", 16, dtype=FLOAT32)
    with pytest.raises(SgoolError, match=r"standard deviations off, above `max_drift` 0.01.*use engine=checkpoint"):
        gradient(problem, "reversible", half == "autocast", False)


@pytest.mark.parametrize(("latents", "split"), [(FLOAT32, False), (FLOAT32, True), (BFLOAT16, False)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_checkpoint_with_bfloat16_weights(
    models16: StableDiffusion, models64: StableDiffusion, sampler: str, latents: torch.dtype, split: bool
) -> None:
    problem = Problem(models16, sampler, 4, dtype=latents, split=split)
    direct, checkpoint = problem.gradient("direct"), problem.gradient("checkpoint")
    exact = Problem(models64, sampler, 4).gradient("direct")
    assert direct.dtype == checkpoint.dtype == latents
    assert problem.value(problem.leaf(), "checkpoint").equal(problem.value(problem.leaf(), "direct"))
    # Cotangents that differ by float32's rounding may round to other bfloat16 numbers. Both gradients are as far from
    # the exact one, 0.07 to 0.5, which is what bfloat16 does to four steps of this network: 0.95 to 1.05 seen, and a
    # third of that between them. Norms, since a single entry may be half as far again in one of the two.
    error = norm_off(direct.double(), exact)
    assert norm_off(checkpoint.double(), direct.double()) <= 0.5 * error
    assert norm_off(checkpoint.double(), exact) <= 1.2 * error


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("weights", "latents", "tolerance"),
    [
        # Sums in another order, a dozen eps after guidance: 1e-6 seen.
        (FLOAT32, FLOAT32, 1e-5),
        (FLOAT64, FLOAT32, 1e-5),
        # The network sees float32 casts of latents and cotangents that agree to eps of float64; a cast that rounds
        # the other way would cost float32's eps.
        (FLOAT32, FLOAT64, 1e-5),
    ],
)
def test_checkpoint_with_single_and_double_precision(
    models: StableDiffusion,
    models64: StableDiffusion,
    sampler: str,
    weights: torch.dtype,
    latents: torch.dtype,
    tolerance: float,
) -> None:
    problem = Problem(models64 if weights == FLOAT64 else models, sampler, 4, dtype=latents)
    direct, checkpoint = problem.gradient("direct"), problem.gradient("checkpoint")
    assert checkpoint.dtype == latents
    assert off(checkpoint, direct) <= tolerance
    # Four steps' float32 against float64: 2e-5 seen.
    exact = Problem(models64, sampler, 4).gradient("direct")
    assert off(checkpoint.double(), exact) <= 1e-3


def test_relative_drift() -> None:
    true = torch.stack([torch.tensor([[[-1.0, 1.0]]]), torch.tensor([[[-10.0, 10.0]]])])  # deviations 2^.5, 10 * 2^.5
    moved = true.clone()
    moved[1, 0, 0, 1] += 1.0
    assert relative_drift([true], [true]) == 0
    assert relative_drift([moved], [true]) == pytest.approx(0.1 / 2**0.5)
    moved[0, 0, 0, 0] -= 0.5  # smaller, but of an item of smaller spread
    assert relative_drift([moved], [true]) == pytest.approx(0.5 / 2**0.5)
    assert relative_drift([true, moved], [true, true]) == pytest.approx(0.5 / 2**0.5)
    moved[1, 0, 0, 0] = torch.nan
    assert relative_drift([true, moved], [true, true]) == torch.inf
    # Latents without spread: any difference is beyond every threshold, none is none.
    assert relative_drift([torch.ones(1, 2)], [torch.ones(1, 2)]) == 0
    assert relative_drift([torch.ones(1, 2) + 1e-6], [torch.ones(1, 2)]) > 1e6


def test_guard_warns_once_and_fails_above_the_limit() -> None:
    guard, true = DriftGuard(1e-3, 0.5), [torch.tensor([[-1.0, 1.0]])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.check([true[0] + 1e-4], true)
    with pytest.warns(UserWarning, match=r"drift of 7.1e-02 standard deviations in torch.float32; use engine=checkp"):
        guard.check([true[0] + 0.1], true)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.check([true[0] + 0.1], true)
    for offset, found in ((1.0, "7.1e-01"), (torch.nan, "inf")):
        with pytest.raises(
            SgoolError, match=f"{found} standard deviations off, above `max_drift` 0.5, so its gradient"
        ):
            guard.check([true[0] + offset], true)


def test_reversible_in_float32_drifts_and_says_so(models: StableDiffusion) -> None:
    """50 steps of EDICT at p = 0.93 amplify by 0.93^-100 = 1.4e3, to some 1e-3 of a deviation."""
    problem = Problem(models, "edict", 50, 1.0, dtype=FLOAT32)
    expected = problem.gradient("checkpoint")
    engine = build_engine("reversible", warn_drift=1e-9)
    with pytest.warns(UserWarning, match="round-trip drift of .* standard deviations in torch.float32"):
        found = problem.gradient(engine)
    # Float32's eps times 1.4e3 and the network's slope; 4e-4 seen.
    assert off(found, expected) <= 1e-2
    with warnings.catch_warnings():  # an engine says it once a run, not at every update
        warnings.simplefilter("error")
        Problem(models, "edict", 4, dtype=FLOAT32).gradient(engine)


def test_reversible_fails_where_float32_is_not_enough(models: StableDiffusion, models64: StableDiffusion) -> None:
    """p = 0.6 amplifies by 0.6^-60 = 2e13 in 30 steps: beyond float32, within float64."""
    options: dict[str, Any] = {"mixing_coeff": 0.6}
    problem = Problem(models, "edict", 30, 1.0, dtype=FLOAT32, **options)
    with pytest.raises(SgoolError, match=r"arrived at first latents that are \d\.\de\+\d+ standard deviations off"):
        problem.gradient("reversible")
    # 20 steps amplify by 7e8: eps of float64 becomes 1e-7.
    precise = Problem(models64, "edict", 20, 1.0, **options)
    assert off(precise.gradient("reversible"), precise.gradient("checkpoint")) <= 1e-4


def test_reversible_fails_where_the_network_gives_no_number(models64: StableDiffusion) -> None:
    """A network that answers otherwise in backward (here: not a number) is found out."""
    problem = Problem(models64, "edict", 2)
    leaf = problem.leaf()
    value = problem.value(leaf, "reversible")
    hook = models64.unet.register_forward_hook(lambda _, __, output: (output[0] * torch.nan,))
    try:
        with pytest.raises(SgoolError, match="inf standard deviations off"):
            value.backward()
    finally:
        hook.remove()


def test_reversible_refuses_latents_in_half_precision(models16: StableDiffusion) -> None:
    problem = Problem(models16, "edict", 2, dtype=BFLOAT16)
    with pytest.raises(SgoolError, match=r"needs latents in float32 or float64, got torch\.bfloat16"):
        problem.value(randn(*problem.start.shape, dtype=BFLOAT16), "reversible")
