"""Pairs of a call: its prompts with first latents that come from generators, from given latents, or from seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sgool.diffusion import Chain
from sgool.errors import ConfigError
from sgool.types import PromptSeed, Start

#: Seeds of pairs are below this number, as those of the command line.
_SEEDS = 2**63
#: Seeds that are drawn or hashed are below this number.
_DRAWN = 2**32
_DATASET = "prompts"


def make_pairs(
    chain: Chain,
    prompts: Sequence[str],
    negative_prompts: Sequence[str],
    generator: Generator | Sequence[Generator] | None,
    latents: Tensor | None,
) -> list[PromptSeed]:
    """Returns the N pairs of a call.

    With a generator, first latents and the noises that a sampler adds on the way are drawn from it as diffusers'
    pipelines draw them: with one generator for all images at once, with a list for each image from its own. They are
    drawn in float32; a pipeline in half precision rounds the same numbers. The seed of an image, on which its crops,
    perturbations and further candidates depend, is the one that its generator was made with, plus its number among the
    images of that generator. A generator that has drawn before gives a seed that follows from its present state, so
    that two calls with one generator try different candidates. Latents without a generator give a seed that follows
    from their numbers; where an image has those of an earlier one, it gets the next free seed.

    Args:
        chain: The chain.
        prompts: N prompts.
        negative_prompts: As many.
        generator: One, or one an image; None: seeds are drawn from torch's global generator.
        latents: First latents (N, C, h, w), or all streams (S, N, C, h, w); None: they are drawn.

    Raises:
        ConfigError: The latents have another shape, or are not finite.
    """
    number = len(prompts)
    given = None if latents is None else _given(chain, latents, number)
    seeds = _seeds(number, generator, given)  # before anything is drawn: a generator's seed depends on its state
    starts: list[Start | None] = [None] * number
    if given is not None:
        noises = _noises(chain, number, generator) if generator is not None else None
        starts = [_start(given[i], noises, i) for i in range(number)]
    elif generator is not None:
        first = _draw(chain, number, generator)
        noises = _noises(chain, number, generator)
        starts = [_start(first[i], noises, i) for i in range(number)]
    return [
        PromptSeed(prompt, seed, index, dataset=_DATASET, negative_prompt=negative, start=start)
        for index, (prompt, seed, negative, start) in enumerate(
            zip(prompts, seeds, negative_prompts, starts, strict=True)
        )
    ]


def _start(latents: Tensor, noises: Tensor | None, index: int) -> Start:
    return Start(latents, noises=None if noises is None else noises[:, index], is_noise=True)


def _seeds(number: int, generator: Generator | Sequence[Generator] | None, given: Tensor | None) -> list[int]:
    if isinstance(generator, Generator):
        first = _seed_of(generator)
        return [(first + index) % _SEEDS for index in range(number)]
    if generator is not None:
        return [_seed_of(own) % _SEEDS for own in generator]
    if given is None:
        return [int(torch.randint(_DRAWN, ())) for _ in range(number)]
    seeds: list[int] = []
    for own in given:
        seed = _hashed(own.float())
        while seed in seeds:  # the same latents twice are two searches
            seed += 1
        seeds.append(seed)
    return seeds


def _seed_of(generator: Generator) -> int:
    """Returns the seed that a generator was made with; once it has drawn, a number that follows from its state."""
    seed, state = generator.initial_seed(), generator.get_state()
    if torch.equal(state, Generator(generator.device).manual_seed(seed).get_state()):
        return seed
    return _hashed(state)


def _hashed(numbers: Tensor) -> int:
    digest = hashlib.sha256(numbers.cpu().contiguous().numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "big") % _DRAWN


def _draw(chain: Chain, number: int, generator: Generator | Sequence[Generator]) -> Tensor:
    """Returns one draw of noise (N, C, h, w) on the CPU."""
    shape = tuple(chain.latent_shape())
    if isinstance(generator, Generator):
        return torch.randn((number, *shape), generator=generator, device=generator.device).cpu()
    return torch.cat([torch.randn((1, *shape), generator=own, device=own.device).cpu() for own in generator])


def _noises(chain: Chain, number: int, generator: Generator | Sequence[Generator]) -> Tensor | None:
    """Returns the noises (K, N, C, h, w) that the sampler adds, drawn one after the other; None if it adds none."""
    draws = chain.noise_draws
    if not draws:
        return None
    drawn = [_draw(chain, number, generator) for _ in range(1 + max(draws))]
    return torch.stack([drawn[index] for index in draws])


def _given(chain: Chain, latents: Tensor, number: int) -> Tensor:
    """Returns given latents with their pairs first: (N, C, h, w) or (N, S, C, h, w)."""
    shape = tuple(chain.latent_shape())
    whole = latents.ndim == len(shape) + 2 and len(latents) in chain.sampler.accepted_streams
    found = latents.detach().transpose(0, 1) if whole else latents.detach()
    if found.shape[0] != number or tuple(found.shape[-len(shape) :]) != shape or found.ndim != len(shape) + 1 + whole:
        expected = (number, *shape)
        raise ConfigError([f"`latents`: expected the shape {expected} (N, C, h, w), got {tuple(latents.shape)}"])
    if not bool(torch.isfinite(found).all()):
        raise ConfigError(["`latents`: expected finite numbers, got some that are NaN or infinite"])
    return found.cpu().clone()
