"""Penalties on the latents alone, added to the objective: they keep optimised latents like noise.

Their gradients do not pass through the network, so they join it after backward.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks.base import UpdateCallback, noises_of, require_positive
from sgool.errors import SgoolError
from sgool.prompts.seeding import pair_generator
from sgool.types import Evaluation, PromptSeed


def norm_regularizer(latents: Tensor) -> Tensor:
    """(S, B) 0.5 r^2 - (d - 1) log r of latents (S, B, C, h, w), r their norm and d their number.

    The negative log density, up to a constant, of the norm of d standard normal numbers; least at r^2 = d - 1 (Eyring
    et al. 2024, "ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization").
    """
    norm = latents.flatten(2).square().sum(dim=2).sqrt()
    return 0.5 * norm**2 - (latents[0, 0].numel() - 1) * norm.log()


def _vectors(count: int, dim: int) -> int:
    """Returns how many vectors of ``dim`` numbers so many latents make."""
    if count < dim:
        raise SgoolError(f"`optimization.gaussianity.dim`: expected at most {count}, the number of latents, got {dim}")
    return count // dim


def gaussianity(latents: Tensor, permutations: Tensor, dim: int) -> Tensor:
    """(S, B) how unlikely latents (S, B, C, h, w) are as independent standard normal numbers.

    Tang et al. 2024, "Inference-Time Alignment of Diffusion Models with Direct Noise Optimization" (DNO), lemma 1 and
    the regulariser after it, as the authors' code computes it. The n numbers are cut, in an order, into m vectors z_i
    of ``dim`` = k numbers, whose mean and covariance concentrate:

        M1 = |1/m sum z_i|               P(M1 > M) <= p1 = min(1, 2 exp(-m M^2 / (2 k)))
        M2 = |1/m sum z_i z_i' - I|_2    P(M2 > M) <= p2 = min(1, 2 exp(-m e^2 / 2)),
                                         e = max(sqrt(1 + M) - 1 - sqrt(k / m), 0)

    The penalty of an order is -log p1 - log p2: 0, with no gradient, where the bounds allow noise to be that far out.
    The result is the penalty of the numbers' own order plus the mean penalty of the permutations. The own order sees
    neighbours that depend on each other, as in smooth latents. All orders see latents that are shifted or stretched,
    and hardly those that shrink. The authors' code returns the same plus a constant, 4 log 2.

    Args:
        latents: First latents.
        permutations: (B, P, n) of each pair's elements.
        dim: k; a rest of n / k numbers is left out, another one in each permutation.
    """
    flat = latents.flatten(2)
    count = _vectors(flat.shape[2], dim)
    natural = torch.arange(flat.shape[2], device=flat.device).expand(len(permutations), 1, -1)
    orders = torch.cat([natural, permutations], dim=1)[..., : count * dim]
    own = torch.arange(len(permutations), device=flat.device)[:, None, None]
    vectors = flat[:, own, orders].unflatten(-1, (count, dim))
    mean = vectors.mean(dim=-2).square().sum(dim=-1)
    covariance = vectors.transpose(-1, -2) @ vectors / count
    eye = torch.eye(dim, dtype=flat.dtype, device=flat.device)
    # Symmetric: the spectral norm is the largest eigenvalue by size.
    spread = torch.linalg.eigvalsh(covariance - eye).abs().amax(dim=-1)
    excess = ((1 + spread).sqrt() - 1 - math.sqrt(dim / count)).clamp_min(0)
    unlikely = (count * mean / (2 * dim) - math.log(2)).clamp_min(0)
    unlikely = unlikely + (count * excess**2 / 2 - math.log(2)).clamp_min(0)
    return unlikely[..., 0] + unlikely[..., 1:].mean(dim=-1)


def power_spectrum(
    latents: Tensor, permutations: Tensor, spectrum_weight: float = 25.0, block: int = 16, target: float = 0.875
) -> Tensor:
    """(S, B) how far the moments and the power spectrum of latents (S, B, C, h, w) are from those of noise.

    Hwang, Kim and Sung 2025, "Moment- and Power-Spectrum-Based Gaussianity Regularization for Text-to-Image Models"
    (MPGR, arXiv 2509.07027), their final loss. For the D numbers x of a stream and the discrete Fourier transform f of
    the same numbers in a random order, whose D frequencies are cut into blocks:

        L1 = |mean x|        L2 = |sqrt(mean x^2) - 1|
        L_power = mean over the blocks of |mean over the block of |f_k| / sqrt D - target|

    The penalty is L1 + L2 + ``spectrum_weight`` L_power. A rest of frequencies is a shorter block.

    Args:
        latents: First latents.
        permutations: (B, D), an order of each pair's elements.
        spectrum_weight: Of L_power.
        block: Frequencies in a block.
        target: Mean of |f_k| / sqrt D; 0.875 is the paper's (sqrt(pi) / 2 = 0.886 is exact).
    """
    flat = latents.flatten(2)
    moments = flat.mean(dim=2).abs() + (flat.square().mean(dim=2).sqrt() - 1).abs()
    own = torch.arange(len(permutations), device=flat.device)[:, None]
    sizes = torch.fft.fft(flat[:, own, permutations], norm="ortho").abs()
    off = [(part.mean(dim=2) - target).abs() for part in sizes.split(block, dim=2)]
    return moments + spectrum_weight * torch.stack(off).mean(dim=0)


def over_streams(penalty: Tensor, module: Any) -> Tensor:
    """Returns the penalty (B,) of a pair: the mean of (S, B) over its streams, and the sum over injected noises."""
    shared = len(penalty) - noises_of(module)
    own = penalty[:shared].mean(dim=0)
    return own if shared == len(penalty) else own + penalty[shared:].sum(dim=0)


class Penalty(UpdateCallback):
    """Adds ``weight`` times a penalty to the loss of each pair.

    It is the mean over EDICT's two streams, which are one noise, plus the sum over injected noises: those are
    independent of each other, and their log densities add.
    """

    order = 10
    name: str
    weight: float

    @abstractmethod
    def of(self, latents: Tensor, pairs: Sequence[PromptSeed], update: int) -> Tensor:
        """Returns the penalty (S, B) of latents (S, B, C, h, w), before the weight."""

    def values(self, module: Any, seen: Evaluation) -> Tensor:
        """Returns the penalty (B,) of what an update saw, before the weight."""
        return over_streams(self.of(seen.latents, module.pairs, seen.update), module)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Adds the penalty's gradient to that of the objective, in place."""
        gradient = self.gradient(pl_module)
        with torch.enable_grad():
            latents = pl_module.latents.detach().requires_grad_(True)
            penalty = over_streams(self.of(latents, pl_module.pairs, pl_module.update), pl_module)
            (own,) = torch.autograd.grad(penalty.sum(), latents)
        gradient.add_(own, alpha=self.weight)


class NormRegularizer(Penalty):
    """The penalty `norm_regularizer` on the latents' norm, which ReNO uses."""

    name = "norm_regularizer"

    def __init__(self, weight: float) -> None:
        require_positive("norm_regularizer", weight)
        self.weight = weight

    def of(self, latents: Tensor, pairs: Sequence[PromptSeed], update: int) -> Tensor:
        """Returns the penalty (S, B) of latents (S, B, C, h, w), before the weight."""
        return norm_regularizer(latents)


class Gaussianity(Penalty):
    """The penalty `gaussianity`, with permutations drawn anew at each update, from each pair's own generator.

    Args:
        weight: Of the penalty.
        dim: Length k of the vectors.
        permutations: How many at each update.
    """

    name = "gaussianity"

    def __init__(self, weight: float, dim: int = 4, permutations: int = 16) -> None:
        for name, value in (("weight", weight), ("dim", dim), ("permutations", permutations)):
            require_positive(f"gaussianity.{name}", value)
        self.weight, self.dim, self.permutations = weight, dim, permutations

    def check(self, module: Any) -> None:
        """Raises SgoolError for vectors that are longer than the latents."""
        _vectors(math.prod(module.chain.latent_shape()), self.dim)

    def of(self, latents: Tensor, pairs: Sequence[PromptSeed], update: int) -> Tensor:
        """Returns the penalty (S, B) of latents (S, B, C, h, w), before the weight."""
        count = latents[0, 0].numel()
        drawn = []
        for pair in pairs:
            generator = pair_generator(pair.seed, "gaussianity", update)
            own = [torch.randperm(count, generator=generator) for _ in range(self.permutations)]
            drawn.append(torch.stack(own))
        return gaussianity(latents, torch.stack(drawn).to(latents.device), self.dim)


class PowerSpectrum(Penalty):
    """The penalty `power_spectrum`, in an order drawn anew at each update, from each pair's own generator.

    Args:
        weight: Of the penalty.
        spectrum_weight: Of the spectrum against the moments, within the penalty.
        block: Frequencies in a block.
        target: Mean of the spectrum's magnitudes.
    """

    name = "power_spectrum"

    def __init__(self, weight: float, spectrum_weight: float = 25.0, block: int = 16, target: float = 0.875) -> None:
        named = (("weight", weight), ("spectrum_weight", spectrum_weight), ("block", block), ("target", target))
        for name, value in named:
            require_positive(f"power_spectrum.{name}", value)
        self.weight, self.spectrum_weight, self.block, self.target = weight, spectrum_weight, block, target

    def of(self, latents: Tensor, pairs: Sequence[PromptSeed], update: int) -> Tensor:
        """Returns the penalty (S, B) of latents (S, B, C, h, w), before the weight."""
        count = latents[0, 0].numel()
        generators = [pair_generator(pair.seed, "power_spectrum", update) for pair in pairs]
        orders = torch.stack([torch.randperm(count, generator=generator) for generator in generators])
        return power_spectrum(latents, orders.to(latents.device), self.spectrum_weight, self.block, self.target)
