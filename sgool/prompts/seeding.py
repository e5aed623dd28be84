"""Random numbers that belong to a pair, never to the process.

Whatever happens to a pair (its rank, the other pairs of its batch, a crash and a resume), it draws the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


def pair_generator(seed: int, purpose: str, update: int = 0) -> Generator:
    """Returns a CPU generator for one pair's seed, one purpose ("crops", "perturb", ...) and one update."""
    import torch

    digest = hashlib.sha256(f"{purpose}|{seed}|{update}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))


def first_latents(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Draws the first latents of a pair: standard normal, of a shape (C, h, w), float32 on the CPU.

    They equal those of a float32 diffusers pipeline called for one image with
    ``generator=torch.Generator("cpu").manual_seed(seed)``.
    """
    import torch

    return torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(seed))[0]


def injected_noises(seed: int, shape: tuple[int, ...], draws: Sequence[int]) -> Tensor:
    """Draws the noises that a sampler adds on the way: standard normal, float32 on the CPU.

    They equal those of a float32 diffusers pipeline: its scheduler draws them from the generator of the first latents,
    one after the other.

    Args:
        seed: The pair's seed.
        shape: Shape (C, h, w) of the latents.
        draws: Numbers of the draws to keep, from 0 for the first one after the first latents, in ascending order.

    Returns:
        (K, C, h, w) for K draws.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = [torch.randn((1, *shape), generator=generator)[0] for _ in range(2 + max(draws, default=-1))]
    return torch.stack([drawn[1 + number] for number in draws]) if draws else torch.zeros(0, *shape)
