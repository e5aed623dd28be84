"""What is done with a call's results: failures are told, and latents denoised where those are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.methods.starts import network_prompts, start_noises
from sgool.run.parts import Parts
from sgool.types import PairResult


def check_results(results: Sequence[PairResult]) -> None:
    """Warns of images that failed.

    Raises:
        SgoolError: All have.
    """
    failed = [(number, result.error) for number, result in enumerate(results) if result.error]
    if failed and len(failed) == len(results):
        raise SgoolError(f"no image was made well; the first ended in: {failed[0][1]}")
    for number, error in failed:
        warnings.warn(f"image {number} was not made well (result.errors): {error}", stacklevel=4)


@torch.no_grad()
def denoised_latents(parts: Parts, results: Sequence[PairResult]) -> tuple[Tensor, Tensor]:
    """Returns the denoised latents (N, C, h, w) of the kept and of the initial images."""
    pairs = [result.pair for result in results]
    chain = parts.chain.with_prompts(network_prompts(pairs), [pair.negative_prompt for pair in pairs])
    chain = chain.with_noises(start_noises(chain, pairs))
    found = []
    for name in ("final_latents", "initial_latents"):
        latents = torch.stack([getattr(result, name) for result in results], dim=1)
        found.append(chain.denoise(latents.to(chain.device, chain.latents_dtype))[0].cpu())
    return found[0], found[1]
