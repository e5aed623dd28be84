"""Which latents a method works on: the first ones, or with them every noise that the sampler adds on the way."""

from __future__ import annotations

import torch
from torch import Tensor

from sgool.diffusion import Chain
from sgool.errors import SgoolError

STREAMS = ("first", "all")


class NoiseStreams:
    """The part of a `sgool.methods.base.PairModule` that knows whether injected noises are among its latents.

    With ``streams`` "all", as Tang et al. 2024 (DNO, arXiv 2405.18881) optimise them, latents are (1 + K, B, C, h, w):
    the first latents, and then the K noises of `sgool.Chain.noise_draws` in their order.
    """

    chain: Chain
    streams: str = "first"

    @property
    def num_noises(self) -> int:
        """How many of the last streams of the latents are injected noises: K with streams "all", else 0."""
        return len(self.chain.noise_draws) if self.streams == "all" else 0

    def per_pair(self, latents: Tensor) -> Tensor:
        """What a search remembers of latents (S, B, C, h, w): (B, C, h, w), or with noises (B, 1 + K, C, h, w)."""
        return latents.transpose(0, 1) if self.num_noises else latents[0]

    def of_pairs(self, drawn: list[Tensor], like: Tensor) -> Tensor:
        """Makes latents like ``like``, (S, B, C, h, w), of what a search has drawn for each pair (`per_pair`)."""
        stacked = torch.stack(drawn).to(like)
        return stacked.transpose(0, 1) if self.num_noises else stacked.expand_as(like)


def checked_streams(streams: str, chain: Chain) -> str:
    """Returns which streams are worked on, if the chain has such.

    Raises:
        SgoolError: An unknown value, or "all" where the sampler adds no noise.
    """
    if streams not in STREAMS:
        raise SgoolError(f"`optimization.streams`: expected first or all, got {streams!r}")
    if streams == "all" and not chain.noise_draws:
        kind = type(getattr(chain.family, "scheduler", None)).__name__
        with_scheduler = f" with the model's {kind}" if chain.sampler.name == "native" else ""
        raise SgoolError(
            f"`optimization.streams`: all needs a sampler that adds noise on the way, and {chain.sampler.name}"
            f"{with_scheduler} adds none in {chain.num_inference_steps} steps; use optimization.streams=first, or "
            "sampler=native and a model with such a scheduler (LCM, Euler ancestral, TCD or DDIM with sampler.eta)"
        )
    return streams
