"""Starts that bring their noises, and draws of noise in place of a seed's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import LCMScheduler

from sgool import Chain, PromptSeed, SGOOLPipeline
from sgool.errors import SgoolError
from sgool.methods.candidates import check_candidates
from sgool.methods.starts import start_noises
from sgool.pipeline.noise import make_pairs
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


def test_a_generator_that_is_used_again_tries_other_candidates(tiny: SGOOLPipeline) -> None:
    asked = {"method": "best_of_n", "candidates": 3, "num_inference_steps": 2, "output_type": "pt"}
    generator, tried = seeded(3), []

    def made() -> Any:
        result = tiny("a red cat", generator=generator, **asked)
        tried.append([row["selection"] for row in result.results[0].history])
        return result

    first, second = made(), made()
    assert first.seeds == [3]  # as `sgool fit data.seeds=[3]`
    assert second.seeds != [3]
    assert len(set(tried[0] + tried[1])) == 6


def test_seeds_of_generators_follow_from_their_state(chain: Chain) -> None:
    def seeds(generator: Any) -> list[int]:
        return [pair.seed for pair in make_pairs(chain, ["a", "b"], ["", ""], generator, None)]

    assert seeds(seeded(5)) == [5, 6]
    assert seeds([seeded(5), seeded(9)]) == [5, 9]
    used, same = seeded(5), seeded(5)
    for generator in (used, same):
        torch.randn(3, generator=generator)
    found = seeds(used)
    assert found == seeds(same)
    assert found[1] == found[0] + 1 and found[0] != 5
    assert seeds(used) != found  # it has drawn since
    many = [seeded(1), seeded(2)]
    assert seeds(many) == [1, 2]
    assert not set(seeds(many)) & {1, 2}


def test_seeds_of_given_latents_follow_from_them(chain: Chain) -> None:
    shape = tuple(chain.latent_shape())

    def seeds(*latents: torch.Tensor) -> list[int]:
        made = make_pairs(chain, ["a"] * len(latents), [""] * len(latents), None, torch.stack(latents))
        return [pair.seed for pair in made]

    one, two = (torch.randn(shape, generator=seeded(seed)) for seed in (1, 2))
    first, second = seeds(one, two)
    assert first != second
    assert seeds(one) == [first] and seeds(two) == [second]
    assert seeds(one, one) == [first, first + 1]


def test_latents_and_their_generator_make_the_same_noises_again(chain: Chain) -> None:
    """As docs/pipeline.md says: the generator draws the first latents once more before the call."""
    first = make_pairs(chain, ["a", "b"], ["", ""], seeded(5), None)
    latents = torch.stack([pair.start.latents for pair in first if pair.start is not None])
    generator = seeded(5)
    torch.randn(latents.shape, generator=generator)
    for was, again in zip(first, make_pairs(chain, ["a", "b"], ["", ""], generator, latents), strict=True):
        assert was.start is not None and again.start is not None
        assert was.start.noises is not None and again.start.noises is not None
        assert torch.equal(was.start.noises, again.start.noises) and torch.equal(was.start.latents, again.start.latents)
