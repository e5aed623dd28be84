"""The way back: exact for EDICT, BELM and BDIA, approximate for DDIM, none for DPM-Solver++."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sgool.diffusion import Chain, build_sampler
from sgool.diffusion.moves import Move, State
from sgool.errors import SgoolError
from sgool.models.autoencoder import decode_latents, encode_images
from sgool.models.schedule import Schedule, Spacing
from sgool.models.stable_diffusion import StableDiffusion
from tests import reference
from tests.reference import assert_close, jump, randn, scheduler64

PROMPTS = ["a red cat", "two green trees"]
NEGATIVE = ["", "a blue house"]


def setting(
    models: StableDiffusion,
    name: str,
    steps: int,
    guidance: float = 7.5,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Chain:
    models = replace(models, scheduler=scheduler64(**(config or {})))
    sampler = build_sampler(name, **options)
    chain = Chain(models, num_inference_steps=steps, guidance_scale=guidance, sampler=sampler)
    return chain.with_prompts(PROMPTS, NEGATIVE)


@torch.no_grad()
def last_state(chain: Chain, latents: Tensor) -> Tensor:
    return torch.stack(chain.run_state(latents))


@torch.no_grad()
def forwards(chain: Chain, latents: Tensor) -> Tensor:
    return chain.denoise(latents)


def largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())


def slow(models: StableDiffusion, steps: int, **options: Any) -> reference.Chain:
    return reference.Chain(
        models.unet, models.encode_prompts(PROMPTS), models.encode_prompts(NEGATIVE), steps, **options
    )


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
def test_there_and_back(models64: StableDiffusion, name: str, options: dict[str, Any], steps: int) -> None:
    """From a whole last state to the first latents.

    Inversion amplifies rounding by p^-2 a step for EDICT (1.4e3 over 50 steps at 0.93, 1.3e3 over 10 at 0.7), by
    1 / gamma for BDIA (190 over 50 at 0.9, 1e3 over 10 at 0.5), for BELM by the squared ratio of the first step to the
    last. On latents of size 60, float64 leaves 1e-10 of that.
    """
    chain = setting(models64, name, steps, **options)
    start = randn(chain.num_streams, 2, 4, 8, 8)
    last = last_state(chain, start)
    assert len(last) == 2 and largest(last[0] - start[0]) > 0.1
    found = chain.invert_latents(last)
    assert found.exact and largest(found.latents - start) <= 1e-8


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("name", ["edict", "belm", "bdia"])
def test_there_and_back_with_other_networks(models64: StableDiffusion, name: str, prediction: str) -> None:
    for config in ({"steps_offset": 0}, {"set_alpha_to_one": True}, {"timestep_spacing": "linspace"}):
        chain = setting(models64, name, 7, config={**config, "prediction_type": prediction})
        start = randn(chain.num_streams, 2, 4, 8, 8)
        assert largest(chain.invert_latents(last_state(chain, start)).latents - start) <= 1e-8


@pytest.mark.parametrize(("name", "options", "steps"), EXACT)
def test_an_image_is_found_again(models64: StableDiffusion, name: str, options: dict[str, Any], steps: int) -> None:
    """From one latent, as an encoded image is; the other half of the state is chosen by the inversion."""
    steps = min(steps, 20)
    chain = setting(models64, name, steps, **options)
    image = randn(1, 2, 4, 8, 8, seed=5)
    found = chain.invert_latents(image)
    assert found.exact and found.latents.shape == (2, 2, 4, 8, 8)
    assert largest(found.latents[0] - image[0]) > 0.1
    again = forwards(chain, found.latents)
    assert again.shape == (chain.num_streams, 2, 4, 8, 8)
    # First latents of size 1e3 where the inverse amplifies; their rounding shrinks again on the way forwards.
    for stream in again:
        assert largest(stream - image[0]) <= 1e-8


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_edict_inverse_equals_the_slow_one(models64: StableDiffusion, steps: int) -> None:
    last = randn(2, 2, 4, 8, 8)
    for offset, mixing, leapfrog in ((0, 0.93, True), (1, 0.8, False)):
        config = {"steps_offset": offset}
        quick = setting(models64, "edict", steps, config=config, mixing_coeff=mixing, leapfrog=leapfrog)
        chain = slow(models64, steps, offset=offset, mixing=mixing, leapfrog=leapfrog)
        assert_close(quick.invert_latents(last).latents, torch.stack(chain.edict_back(*last)), 1e-11)
        # One latent stands for both streams.
        expected = torch.stack(chain.edict_back(last[0], last[0]))
        assert_close(quick.invert_latents(last[:1]).latents, expected, 1e-11)


@pytest.mark.parametrize("name", ["belm", "bdia"])
def test_two_step_samplers_take_the_latents_before_the_last_from_ddim(models64: StableDiffusion, name: str) -> None:
    quick, chain = setting(models64, name, 4), slow(models64, 4)
    image = randn(1, 2, 4, 8, 8, seed=5)
    _, t, alpha, after = chain.times()[-1]
    before = image[0]
    for refinements in (0, 1):
        before = jump(image[0], chain.eps(before, t), after, alpha)
        pair = torch.stack([image[0], before])
        got = quick.invert_latents(image, refinements=refinements).latents
        assert_close(got, quick.invert_latents(pair).latents, 1e-11)


def test_a_first_latent_is_a_pair_of_itself(models64: StableDiffusion) -> None:
    for name in ("belm", "bdia"):
        chain, start = setting(models64, name, 4), randn(1, 2, 4, 8, 8)
        assert torch.equal(forwards(chain, start), forwards(chain, start.expand(2, 2, 4, 8, 8)))


@pytest.mark.parametrize("refinements", [0, 2])
def test_ddim_inverse_equals_the_slow_one(models64: StableDiffusion, refinements: int) -> None:
    last = randn(1, 2, 4, 8, 8)
    for steps, offset in ((1, 1), (4, 0), (7, 1)):
        chain = setting(models64, "ddim", steps, config={"steps_offset": offset})
        found = chain.invert_latents(last, refinements=refinements)
        assert not found.exact
        assert_close(found.latents[0], slow(models64, steps, offset=offset).ddim_back(last[0], refinements), 1e-11)


def test_ddim_inverse_is_approximate_and_refined(models64: StableDiffusion) -> None:
    chain, start = setting(models64, "ddim", 50, guidance=1.0), randn(1, 2, 4, 8, 8)
    last = forwards(chain, start)
    errors = [largest(chain.invert_latents(last, refinements=refinements).latents - start) for refinements in (0, 1, 2)]
    assert errors[0] > 0.01
    # A contraction where steps are short: measured 5e-1, 5e-2, 6e-3.
    assert all(after < before / 4 for before, after in pairwise(errors))


def test_calls_of_an_inversion(models64: StableDiffusion) -> None:
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
        chain = setting(models64, name, 5, config={"steps_offset": 0})
        chain.invert_latents(randn(streams, 2, 4, 8, 8), refinements=refinements)
        assert chain.calls == expected, (name, streams, refinements)


def test_no_gradient_is_kept(models64: StableDiffusion) -> None:
    chain = setting(models64, "edict", 2)
    assert not chain.invert_latents(randn(2, 2, 4, 8, 8).requires_grad_(True)).latents.requires_grad


def test_dpm_solver_has_no_inverse(models64: StableDiffusion) -> None:
    chain = setting(models64, "dpm_solver", 4)
    with pytest.raises(SgoolError, match=r"dpm_solver has no inverse: its steps start from a prediction made before"):
        chain.invert_latents(randn(1, 2, 4, 8, 8))
    assert chain.calls == 0


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
    models64: StableDiffusion, name: str, options: dict[str, Any], steps: int, lossy: bool
) -> None:
    chain = setting(models64, name, steps, guidance=1.0, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain.invert_latents(randn(1, 2, 4, 8, 8))
    said = [str(warning.message) for warning in caught if "enlarges rounding errors" in str(warning.message)]
    assert len(said) == lossy


@pytest.mark.parametrize("changes", [{}, {"scaling_factor": 0.5, "shift_factor": 0.3}, {"shift_factor": None}])
@torch.no_grad()
def test_pixels_and_latents_follow_the_vae(models64: StableDiffusion, changes: dict[str, Any]) -> None:
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


class OwnSampler:
    """A user's own sampler, which is none of sgool's: DDIM by another name, with an exact or an approximate inverse."""

    name = "own"
    num_streams = 1
    spacing: Spacing = "ddim"
    guidable = False

    def __init__(self, *, invertible: bool) -> None:
        self._inner = build_sampler("belm" if invertible else "ddim")
        self.invertible, self.has_inverse = invertible, True
        self.accepted_streams = self._inner.accepted_streams

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        return self._inner.moves(schedule)

    def begin(self, latents: Tensor) -> State:
        return self._inner.begin(latents)

    def finish(self, state: State) -> State:
        return self._inner.finish(state)


@pytest.mark.parametrize("invertible", [True, False])
def test_a_sampler_of_the_users_own_is_asked_what_it_can(models64: StableDiffusion, invertible: bool) -> None:
    own = OwnSampler(invertible=invertible)
    models, image = replace(models64, scheduler=scheduler64()), randn(1, 2, 4, 8, 8, seed=5)
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 1.0}
    got, expected = (
        Chain(models, sampler=sampler, **options).with_prompts(PROMPTS).invert_latents(image)
        for sampler in (own, "belm" if invertible else "ddim")
    )
    assert got.exact == expected.exact == invertible
    assert torch.equal(got.latents, expected.latents)


def test_an_image_is_encoded_and_inverted(models64: StableDiffusion) -> None:
    chain = setting(models64, "edict", 3)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latents = chain.encode_images(images)
    assert latents.dtype == chain.latents_dtype == torch.float64
    assert torch.equal(latents, encode_images(models64.vae, images))
    assert torch.equal(chain.invert(images).latents, chain.invert_latents(latents[None]).latents)
