"""Gradients and latents that have the spectrum of white Gaussian noise, block by block.

Hwang and Sung 2026, "Gradient Preconditioning for Efficient and Reliable Reward-Guided Generation" (arXiv 2602.08646).
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks.base import UpdateCallback
from sgool.errors import SgoolError

#: Coefficients of a block where nothing else is asked for.
_BLOCK = 16
#: Square of the mean magnitude of a complex normal number whose mean square is 1: E|y| = sqrt(pi) / 2.
_GAMMA = math.pi / 4
#: Where magnitudes are equal, later ones count as smaller by this share of the largest one.
_TIE = 1e-9


def whitened(latents: Tensor, block: int) -> Tensor:
    """Projects latents (S, B, C, h, w) onto what white Gaussian noise has, each stream of each pair by itself.

    The N numbers of a stream, flattened, have N/2 independent complex Fourier coefficients y: those of the real Fourier
    transform, with the two real ones as y_0 = (x_0 + i x_{N/2}) / sqrt 2. For standard normal numbers each y_k is a
    complex normal number with E|y_k| = sqrt(pi) / 2 and E|y_k|^2 = 1. The nearest numbers for which both hold as means
    of every ``block`` neighbouring magnitudes are returned (section 4 of the paper). Phases stay. Within a block the
    magnitudes become c max(|y_k| - t, 0), with c and t from the two conditions. The mean square of the result is 1.

    It works in float64 and returns the data type that it got. What is ours: a block of zeros stays, since it has no
    direction; where more than pi/4 of a block share the largest magnitude, no nearest point is unique, and the first of
    them are taken for the larger ones (the authors add random numbers of 1e-6).

    Raises:
        SgoolError: N/2 is no multiple of ``block``.
    """
    check_block(latents[0, 0].numel(), block)
    # float64 is unknown to MPS.
    flat = latents.detach().flatten(2).to("cpu" if latents.device.type == "mps" else latents.device).double()
    blocks = _spectrum(flat).unflatten(-1, (-1, block))
    sizes = blocks.abs()
    phases = torch.where(sizes > 0, blocks / sizes.clamp_min(torch.finfo(sizes.dtype).tiny), 1.0)
    white = (_projected(sizes) * phases).flatten(-2)
    return _numbers(white, flat.shape[-1]).view(latents.shape).to(latents)


def check_block(count: int, block: int) -> None:
    """Checks that the independent coefficients of ``count`` latents can be cut into blocks.

    Raises:
        SgoolError: They cannot.
    """
    if block < 2:
        raise SgoolError(f"`optimization.whiten.block`: expected a whole number of at least 2, got {block}")
    if count % (2 * block):
        fitting = [str(size) for size in range(2, 65) if count % (2 * size) == 0]
        raise SgoolError(
            f"`optimization.whiten.block`: expected a divisor of {count / 2:g}, half of the number of latents, got "
            f"{block}; {'possible are ' + ', '.join(fitting) if fitting else 'none fits: choose another image size'}"
        )


def _spectrum(flat: Tensor) -> Tensor:
    """(..., N) real -> (..., N/2) complex, an isometry up to the factor sqrt 2."""
    found = torch.fft.rfft(flat, norm="ortho")
    first = torch.complex(found[..., :1].real, found[..., -1:].real) / math.sqrt(2)
    return torch.cat([first, found[..., 1:-1]], dim=-1)


def _numbers(spectrum: Tensor, count: int) -> Tensor:
    """The inverse of `_spectrum`."""
    ends = math.sqrt(2) * spectrum[..., :1]
    first, last = (torch.complex(end, torch.zeros_like(end)) for end in (ends.real, ends.imag))
    return torch.fft.irfft(torch.cat([first, spectrum[..., 1:], last], dim=-1), n=count, norm="ortho")


def _projected(sizes: Tensor) -> Tensor:
    """(..., b) magnitudes >= 0 -> the nearest ones with mean sqrt(pi)/2 and mean square 1; zeros alone stay.

    With the K largest magnitudes above the threshold, their sum s and sum of squares q after it is subtracted must have
    s^2 / q = b pi/4. This is a quadratic equation for the threshold. K is the least number for which the threshold
    is not below the next magnitude. Magnitudes are measured downwards from the largest, so that nothing cancels.
    """
    block = sizes.shape[-1]
    ordered, order = sizes.sort(dim=-1, descending=True, stable=True)
    largest = ordered[..., :1]
    places = torch.arange(block, dtype=sizes.dtype, device=sizes.device)
    below = largest - ordered
    below = below + _TIE * largest * torch.where(below == 0, places, 0.0)
    # Ties are raised by less than what comes after them is below, unless that is as near: keep the order.
    below = below.cummax(dim=-1).values
    fewest = math.floor(_GAMMA * block) + 1
    number = torch.arange(fewest, block + 1, dtype=sizes.dtype, device=sizes.device)
    total, squares = (below.pow(power).cumsum(dim=-1)[..., fewest - 1 :] for power in (1, 2))
    spread = (number * squares - total.square()).clamp_min(0)
    depth = (total + (_GAMMA * block * spread / (number - _GAMMA * block)).sqrt()) / number
    following = torch.cat([below[..., fewest:], torch.full_like(largest, math.inf)], dim=-1)
    chosen = (depth <= following).to(sizes.dtype).argmax(dim=-1, keepdim=True)
    above = (depth.gather(-1, chosen) - below).clamp_min(0)
    scale = math.sqrt(_GAMMA) * block / above.sum(dim=-1, keepdim=True)
    projected = torch.where(largest > 0, above * scale, 0.0)
    return torch.empty_like(sizes).scatter_(-1, order, projected)


def fitting_block(count: int, block: int | None) -> int:
    """Returns how many coefficients of ``count`` latents a block has.

    Args:
        count: Number of latents of a stream.
        block: What is asked for; None: 16, or the largest number below that their coefficients can be cut into.

    Raises:
        SgoolError: They cannot be cut into blocks of this size, or of any.
    """
    if block is None:
        block = next((size for size in range(_BLOCK, 1, -1) if count % (2 * size) == 0), _BLOCK)
    check_block(count, block)
    return block


class _Whiten(UpdateCallback):
    def __init__(self, block: int | None = _BLOCK) -> None:
        if block is not None and block < 2:
            check_block(2, block)
        self.block = block

    def whitened(self, latents: Tensor) -> Tensor:
        """Projects latents (S, B, C, h, w) in blocks that fit their number."""
        return whitened(latents, fitting_block(latents[0, 0].numel(), self.block))

    def check(self, module: Any) -> None:
        """Refuses latents that cannot be cut into blocks.

        Raises:
            SgoolError: Their number does not fit the block.
        """
        fitting_block(math.prod(module.chain.latent_shape()), self.block)


class WhitenGradient(_Whiten):
    """Replaces each pair's gradient by its projection `whitened`: a root mean square of 1, of noise's spectrum.

    It comes after tying and before `NormalizeGradient`, which gives it the size of a step. A gradient of 0 (of a pair
    that makes no step) stays 0.

    Args:
        block: Coefficients in a block; None: 16, or the largest number below that fits.
    """

    order = 48

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Replaces the gradient in place."""
        gradient = self.gradient(pl_module)
        gradient.copy_(self.whitened(gradient))


class WhitenLatents(_Whiten):
    """Replaces the latents after each update by their projection `whitened`, before they are renormalised.

    The first latents stay as they were drawn, and so do pairs that make no step.

    Args:
        block: Coefficients in a block; None: 16, or the largest number below that fits.
    """

    order = 72

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Refuses, before any network call, latents that are no noise or cannot be cut into blocks.

        Raises:
            SgoolError: A pair starts from latents of its own (`sgool.types.Start`), or the block does not fit.
        """
        super().setup(trainer, pl_module, stage)
        starts = [(pair.pair_id, pair.start) for pair in pl_module.all_pairs if pair.start is not None]
        started = [name for name, start in starts if not start.is_noise]
        if started:
            raise SgoolError(
                f"`optimization.whiten.latents`: expected pairs that start from noise, but {started[0]} starts from "
                "latents of its own, for example those of a photo, which the projection would spoil; use "
                "optimization.whiten.latents=false"
            )

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Replaces the latents in place."""
        latents, update = pl_module.latents, pl_module.update
        moving = [index for index in range(len(pl_module.pairs)) if not pl_module.is_held(index, update)]
        if moving:
            latents[:, moving] = self.whitened(latents[:, moving])
