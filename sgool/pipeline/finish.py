"""What is done with a call's end: failures are told, and latents denoised where those are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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


@contextmanager
def explained_memory(side_by_side: int) -> Iterator[None]:
    """Says what to do where memory runs out.

    Args:
        side_by_side: How many images a batch has at most.

    Raises:
        SgoolError: Memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        # torch's allocator on the CPU raises a plain RuntimeError.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        fewer = 'overrides=["trainer.pairs_per_fit=1"], which optimises one image after the other; else '
        raise SgoolError(
            f"out of memory with {side_by_side} image{'s' * (side_by_side > 1)} side by side. Use "
            f"{fewer if side_by_side > 1 else ''}"
            'overrides=["engine=checkpoint", "engine.memory_mib=0", "engine.block_checkpointing=true", '
            '"engine.split_guidance=true"], fewer crops, a model in float16 or bfloat16, or a smaller image'
        ) from error


@torch.no_grad()
def denoised_latents(parts: Parts, results: Sequence[PairResult], side_by_side: int) -> tuple[Tensor, Tensor]:
    """Returns the denoised latents (N, C, h, w) of the kept and of the initial images.

    Args:
        parts: What the results were made with.
        results: N results.
        side_by_side: How many are denoised at once, as many as were optimised at once.
    """
    kept: list[Tensor] = []
    first: list[Tensor] = []
    for begin in range(0, len(results), side_by_side):
        batch = results[begin : begin + side_by_side]
        pairs = [result.pair for result in batch]
        chain = parts.chain.with_prompts(network_prompts(pairs), [pair.negative_prompt for pair in pairs])
        chain = chain.with_noises(start_noises(chain, pairs))
        for name, found in (("final_latents", kept), ("initial_latents", first)):
            latents = torch.stack([getattr(result, name) for result in batch], dim=1)
            found.append(chain.denoise(latents.to(chain.device, chain.latents_dtype))[0].cpu())
    return torch.cat(kept), torch.cat(first)
