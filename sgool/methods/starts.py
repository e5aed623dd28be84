"""Where a batch of pairs starts: its first latents, and what the denoising network is told."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.prompts.seeding import first_latents, injected_noises
from sgool.types import PromptSeed


def start_latents(chain: Chain, pairs: Sequence[PromptSeed], noises: Tensor | None = None) -> Tensor:
    """First latents (S, B, C, h, w) of pairs, on the chain's device: drawn by their seeds, or where they start.

    Args:
        chain: The chain.
        pairs: The B pairs.
        noises: Noises (K, B, C, h, w) that become the last streams, where all of them are worked on.

    Raises:
        SgoolError: A start of another shape.
    """
    shape = tuple(chain.latent_shape())
    streams = []
    for pair in pairs:
        given = first_latents(pair.seed, shape) if pair.start is None else pair.start.latents
        whole = given.ndim == len(shape) + 1 and len(given) in chain.sampler.accepted_streams
        if tuple(given.shape[1:] if whole else given.shape) != shape:
            raise SgoolError(f"`start.latents` of {pair.pair_id}: expected shape {shape}, got {tuple(given.shape)}")
        streams.append(given if whole else given.expand(chain.num_streams, *shape))
    if len({len(stream) for stream in streams}) > 1:
        raise SgoolError("`start.latents`: expected the same number of streams for all pairs of a batch")
    # Stacking copies: a caller's tensor does not change with the updates.
    latents = torch.stack(streams, dim=1).to(device=chain.device, dtype=chain.latents_dtype)
    return latents if noises is None or len(latents) > chain.num_streams else torch.cat([latents, noises])


def start_noises(chain: Chain, pairs: Sequence[PromptSeed]) -> Tensor | None:
    """Noises (K, B, C, h, w) that the chain's sampler adds on the way, drawn by the pairs' seeds; None if it adds none.

    They follow the first latents in each pair's generator, as in diffusers. A pair's start may bring its own.

    Raises:
        SgoolError: A start's noises have another shape.
    """
    if not chain.noise_draws:
        return None
    shape = tuple(chain.latent_shape())
    noises = []
    for pair in pairs:
        given = None if pair.start is None else pair.start.noises
        if given is not None and tuple(given.shape) != (len(chain.noise_draws), *shape):
            expected = (len(chain.noise_draws), *shape)
            raise SgoolError(f"`start.noises` of {pair.pair_id}: expected shape {expected}, got {tuple(given.shape)}")
        noises.append(injected_noises(pair.seed, shape, chain.noise_draws) if given is None else given)
    return torch.stack(noises, dim=1).to(device=chain.device, dtype=chain.latents_dtype)


def network_prompts(pairs: Sequence[PromptSeed]) -> list[str]:
    """What the denoising network is told of each pair: its prompt, or the text that its start has in that place."""
    told = [None if pair.start is None else pair.start.network_prompt for pair in pairs]
    return [pair.prompt if text is None else text for pair, text in zip(pairs, told, strict=True)]
