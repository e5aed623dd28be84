"""Starts that bring their noises, and draws of noise in place of a seed's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import LCMScheduler

from sgool import Chain, PromptSeed
from sgool.errors import SgoolError
from sgool.methods.candidates import check_candidates
from sgool.methods.starts import start_noises
from sgool.prompts.seeding import injected_noises
from sgool.types import Start
from tests.pipeline.conftest import seeded
from tests.tiny_families import BETAS, tiny_family


@pytest.fixture(scope="module")
def chain() -> Chain:
    """An LCM in three steps, which adds noise between them."""
    pipeline = tiny_family("sdxl_lcm")
    pipeline.scheduler = LCMScheduler(**BETAS)
    made: Any = Chain.from_pipeline(pipeline, sampler="native", num_inference_steps=3, height=16, width=16)
    return made


def test_a_start_may_bring_its_noises(chain: Chain) -> None:
    shape, count = chain.latent_shape(), len(chain.noise_draws)
    own = torch.randn(count, *shape, generator=seeded(1))
    latents = torch.randn(shape, generator=seeded(2))
    pairs = [PromptSeed("a", start=Start(latents, noises=own)), PromptSeed("b", seed=4, start=Start(latents))]
    noises = start_noises(chain, pairs)
    assert noises is not None and noises.shape == (count, 2, *shape)
    assert torch.equal(noises[:, 0], own)
    assert torch.equal(noises[:, 1], injected_noises(4, tuple(shape), chain.noise_draws))


def test_noises_of_another_shape(chain: Chain) -> None:
    start = Start(torch.zeros(chain.latent_shape()), noises=torch.zeros(1, 2, 3))
    with pytest.raises(SgoolError, match=r"`start.noises` of prompts-.*: expected shape .*, got \(1, 2, 3\)"):
        start_noises(chain, [PromptSeed("a", start=start)])


def test_a_search_takes_draws_of_noise_and_refuses_a_photos_latents() -> None:
    latents = torch.zeros(4, 8, 8)
    check_candidates(2, [PromptSeed("a", start=Start(latents, is_noise=True))])
    with pytest.raises(SgoolError, match="expected 1 where a pair starts from given latents"):
        check_candidates(2, [PromptSeed("a", start=Start(latents))])
