"""The way back: exact for EDICT, BELM and BDIA, approximate for DDIM, none for DPM-Solver++."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sgool.diffusion import (
    GuidedModel,
    Schedule,
    build_engine,
    build_sampler,
    build_schedule,
    decode_latents,
    denoise,
    encode_images,
)
from sgool.diffusion.chain import Sampler, run_state
from sgool.diffusion.invert import invert
from sgool.errors import SgoolError
from sgool.models.load import DiffusionModels
from tests.reference import Chain, assert_close, jump, randn, scheduler64

PROMPTS = ["a red cat", "two green trees"]
NEGATIVE = ["", "a blue house"]


def setting(
    models: DiffusionModels,
    name: str,
    steps: int,
    guidance: float = 7.5,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Schedule, Sampler, GuidedModel]:
    sampler = build_sampler(name, **options)
    schedule = build_schedule(scheduler64(**(config or {})), steps, sampler.spacing)
    text, negative = models.encode_prompts(PROMPTS), models.encode_prompts(NEGATIVE)
    return schedule, sampler, GuidedModel(models.unet, text, negative, guidance)


@torch.no_grad()
def last_state(latents: Tensor, chosen: tuple[Schedule, Sampler, GuidedModel]) -> Tensor:
    return torch.stack(run_state(latents, *chosen, build_engine("direct")))


@torch.no_grad()
def forwards(latents: Tensor, chosen: tuple[Schedule, Sampler, GuidedModel]) -> Tensor:
    return denoise(latents, *chosen, build_engine("direct"))


def largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())


def slow(models: DiffusionModels, steps: int, **options: Any) -> Chain:
    return Chain(models.unet, models.encode_prompts(PROMPTS), models.encode_prompts(NEGATIVE), steps, **options)


EXACT: list[tuple[str, dict[str, Any], int]] = [
    ("edict", {}, 50),
    ("edict", {"mixing_coeff": 1.0}, 50),
    ("edict", {"leapfrog": False}, 50),
    ("edict", {"mixing_coeff": 0.7}, 10),
    ("belm", {}, 50),
    ("bdia", {}, 50),
    ("bdia", {"gamma": 0.9}, 50),
    ("bdia", {"gamma": 0.5}, 10),
]


@pytest.mark.parametrize(("name", "options", "steps"), EXACT)
def test_there_and_back(models64: DiffusionModels, name: str, options: dict[str, Any], steps: int) -> None:
    """From a whole last state to the first latents.

    Inversion amplifies rounding by p^-2 a step for EDICT (1.4e3 over 50 steps at 0.93, 1.3e3 over 10 at 0.7), by
    1 / gamma for BDIA (190 over 50 at 0.9, 1e3 over 10 at 0.5), for BELM by the squared ratio of the first step to the
    last. On latents of size 60, float64 leaves 1e-10 of that.
    """
    chosen = setting(models64, name, steps, **options)
    start = randn(chosen[1].num_streams, 2, 4, 8, 8)
    last = last_state(start, chosen)
    assert len(last) == 2 and largest(last[0] - start[0]) > 0.1
    found = invert(last, *chosen)
    assert found.exact and largest(found.latents - start) <= 1e-8


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("name", ["edict", "belm", "bdia"])
def test_there_and_back_with_other_networks(models64: DiffusionModels, name: str, prediction: str) -> None:
    for config in ({"steps_offset": 0}, {"set_alpha_to_one": True}, {"timestep_spacing": "linspace"}):
        chosen = setting(models64, name, 7, config={**config, "prediction_type": prediction})
        start = randn(chosen[1].num_streams, 2, 4, 8, 8)
        assert largest(invert(last_state(start, chosen), *chosen).latents - start) <= 1e-8


@pytest.mark.parametrize(("name", "options", "steps"), EXACT)
def test_an_image_is_found_again(models64: DiffusionModels, name: str, options: dict[str, Any], steps: int) -> None:
    """From one latent, as an encoded image is; the other half of the state is chosen by `invert`."""
    steps = min(steps, 20)
    chosen = setting(models64, name, steps, **options)
    image = randn(1, 2, 4, 8, 8, seed=5)
    found = invert(image, *chosen)
    assert found.exact and found.latents.shape == (2, 2, 4, 8, 8)
    assert largest(found.latents[0] - image[0]) > 0.1
    again = forwards(found.latents, chosen)
    assert again.shape == (chosen[1].num_streams, 2, 4, 8, 8)
    # First latents of size 1e3 where the inverse amplifies; their rounding shrinks again on the way forwards.
    for stream in again:
        assert largest(stream - image[0]) <= 1e-8


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_edict_inverse_equals_the_slow_one(models64: DiffusionModels, steps: int) -> None:
    last = randn(2, 2, 4, 8, 8)
    for offset, mixing, leapfrog in ((0, 0.93, True), (1, 0.8, False)):
        config = {"steps_offset": offset}
        chosen = setting(models64, "edict", steps, config=config, mixing_coeff=mixing, leapfrog=leapfrog)
        chain = slow(models64, steps, offset=offset, mixing=mixing, leapfrog=leapfrog)
        assert_close(invert(last, *chosen).latents, torch.stack(chain.edict_back(*last)), 1e-11)
        # One latent stands for both streams.
        expected = torch.stack(chain.edict_back(last[0], last[0]))
        assert_close(invert(last[:1], *chosen).latents, expected, 1e-11)


@pytest.mark.parametrize("name", ["belm", "bdia"])
def test_two_step_samplers_take_the_latents_before_the_last_from_ddim(models64: DiffusionModels, name: str) -> None:
    chosen, chain = setting(models64, name, 4), slow(models64, 4)
    image = randn(1, 2, 4, 8, 8, seed=5)
    _, t, alpha, after = chain.times()[-1]
    before = image[0]
    for refinements in (0, 1):
        before = jump(image[0], chain.eps(before, t), after, alpha)
        pair = torch.stack([image[0], before])
        got = invert(image, *chosen, refinements=refinements).latents
        assert_close(got, invert(pair, *chosen).latents, 1e-11)


def test_a_first_latent_is_a_pair_of_itself(models64: DiffusionModels) -> None:
    for name in ("belm", "bdia"):
        chosen, start = setting(models64, name, 4), randn(1, 2, 4, 8, 8)
        assert torch.equal(forwards(start, chosen), forwards(start.expand(2, 2, 4, 8, 8), chosen))


@pytest.mark.parametrize("refinements", [0, 2])
def test_ddim_inverse_equals_the_slow_one(models64: DiffusionModels, refinements: int) -> None:
    last = randn(1, 2, 4, 8, 8)
    for steps, offset in ((1, 1), (4, 0), (7, 1)):
        chosen = setting(models64, "ddim", steps, config={"steps_offset": offset})
        found = invert(last, *chosen, refinements=refinements)
        assert not found.exact
        assert_close(found.latents[0], slow(models64, steps, offset=offset).ddim_back(last[0], refinements), 1e-11)


def test_ddim_inverse_is_approximate_and_refined(models64: DiffusionModels) -> None:
    chosen, start = setting(models64, "ddim", 50, guidance=1.0), randn(1, 2, 4, 8, 8)
    last = forwards(start, chosen)
    errors = [largest(invert(last, *chosen, refinements=refinements).latents - start) for refinements in (0, 1, 2)]
    assert errors[0] > 0.01
    # A contraction where steps are short: measured 5e-1, 5e-2, 6e-3.
    assert all(after < before / 4 for before, after in pairwise(errors))


def test_calls_of_an_inversion(models64: DiffusionModels) -> None:
    """One a step and refinement; DDIM's null step at offset 0 is skipped; one more for the missing latents."""
    for name, streams, refinements, expected in (
        ("ddim", 1, 0, 4),
        ("ddim", 1, 2, 12),
        ("edict", 1, 2, 8),
        ("edict", 2, 0, 8),
        ("belm", 1, 0, 5),
        ("belm", 1, 2, 7),
        ("bdia", 2, 2, 4),
    ):
        chosen = setting(models64, name, 5, config={"steps_offset": 0})
        invert(randn(streams, 2, 4, 8, 8), *chosen, refinements=refinements)
        assert chosen[2].calls == expected, (name, streams, refinements)


def test_no_gradient_is_kept(models64: DiffusionModels) -> None:
    chosen = setting(models64, "edict", 2)
    assert not invert(randn(2, 2, 4, 8, 8).requires_grad_(True), *chosen).latents.requires_grad


def test_dpm_solver_has_no_inverse(models64: DiffusionModels) -> None:
    chosen = setting(models64, "dpm_solver", 4)
    with pytest.raises(SgoolError, match=r"dpm_solver has no inverse: its steps start from a prediction made before"):
        invert(randn(1, 2, 4, 8, 8), *chosen)
    assert chosen[2].calls == 0


@pytest.mark.parametrize(
    ("name", "options", "steps", "lossy"),
    [
        ("edict", {}, 50, False),
        ("edict", {"mixing_coeff": 0.6}, 50, True),
        ("belm", {}, 10, False),
        ("bdia", {"gamma": 0.5}, 20, False),
        ("bdia", {"gamma": 0.5}, 50, True),
    ],
)
def test_a_way_back_that_loses_all_digits_is_said(
    models64: DiffusionModels, name: str, options: dict[str, Any], steps: int, lossy: bool
) -> None:
    chosen = setting(models64, name, steps, guidance=1.0, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        invert(randn(1, 2, 4, 8, 8), *chosen)
    said = [str(warning.message) for warning in caught if "enlarges rounding errors" in str(warning.message)]
    assert len(said) == lossy


@pytest.mark.parametrize("changes", [{}, {"scaling_factor": 0.5, "shift_factor": 0.3}, {"shift_factor": None}])
@torch.no_grad()
def test_pixels_and_latents_follow_the_vae(models64: DiffusionModels, changes: dict[str, Any]) -> None:
    """diffusers: latents are (the encoder's mean - shift) * scale, pixels go from [-1, 1] to [0, 1]."""
    vae = AutoencoderKL.from_config({**models64.vae.config, **changes}).double().eval()
    vae.load_state_dict(models64.vae.state_dict())
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    assert (scale, shift) == (changes.get("scaling_factor", 0.18215), changes.get("shift_factor") or 0.0)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = vae.encode(2 * images - 1).latent_dist.mean
    latents = encode_images(vae, images)
    assert latents.shape == (2, 4, 8, 8)
    assert_close(latents, scale * (mean - shift), 1e-14)
    # So the decoder sees the encoder's own mean again.
    assert_close(decode_latents(vae, latents), vae.decode(mean).sample / 2 + 0.5, 1e-13)
