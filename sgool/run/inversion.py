"""Inversion of a photo: first latents that lead back to it, and how well they do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sgool.errors import SgoolError
from sgool.models.images import fit_photo, to_tensor
from sgool.types import PromptSeed

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from sgool.diffusion import Chain
    from sgool.run.parts import Parts

#: Fixed-point iterations a step where the way back is approximate: DDIM's, and the first step of two-step samplers.
_REFINEMENTS = 5


class NonFiniteInversion(SgoolError):
    """What the networks make of a photo is not finite."""


@dataclass(frozen=True)
class Edit:
    """What is edited and how it is read.

    Attributes:
        image: The file.
        text: What the objective is told, where it compares with a text; empty: the prompt.
        prompt: What the denoising network is told, in inversion and after; usually nothing.
        fit: crop, squash or pad, see `sgool.models.images.fit_photo`.
        max_error: Largest relative error of the inverted latents at which the edit goes on.
        seed: Seed of crops, in [0, 2^63); None: the first one of ``data.seeds``.
        negative_prompt: Text of the unconditional pass; None: ``data.negative_prompt``.
        phrases: The things that the text names; None: the rule of `sgool.prompts.phrases` finds them.
    """

    image: Path
    text: str = ""
    prompt: str = ""
    fit: str = "crop"
    max_error: float = 0.05
    seed: int | None = None
    negative_prompt: str | None = None
    phrases: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Inverted:
    """An image, the latents that lead to it, and how well they do.

    Attributes:
        image: (3, H, W) in [0, 1], as the model gets it.
        reconstruction: (3, H, W) in [0, 1], denoised from ``latents`` and decoded.
        latents: (S, 1, C, h, w).
        metrics: ``inversion_error``: norm of the difference between the image's latents and the denoised ones, over the
            norm of the image's (the worse one of EDICT's two); ``vae_psnr`` and ``inversion_psnr``, in dB: of the
            autoencoder's own reconstruction and of ``reconstruction`` to the image.
        calls: Network calls that it took.
    """

    image: Tensor
    reconstruction: Tensor
    latents: Tensor
    metrics: Mapping[str, float]
    calls: int


def describe(metrics: Mapping[str, float], max_error: float) -> str:
    """Describes the quality of an inversion in a sentence."""
    return (
        f"inversion error {metrics['inversion_error']:.2g} of the latents (limit {max_error:g}); PSNR to the image: "
        f"autoencoder alone {metrics['vae_psnr']:.1f} dB, with inversion {metrics['inversion_psnr']:.1f} dB"
    )


def invert_image(parts: Parts, photo: Image.Image, pair: PromptSeed, edit: Edit) -> Inverted:
    """Brings a photo to the model's size, finds first latents for it, and denoises them again for the error."""
    import torch

    from sgool.models.autoencoder import in_unit_range
    from sgool.run.train import autocast_like

    chain = parts.chain.with_prompts([edit.prompt], [pair.negative_prompt])
    height, width = (side * chain.family.vae_scale_factor for side in chain.latent_shape()[-2:])
    image = to_tensor(fit_photo(photo, height, width, edit.fit))
    with torch.no_grad(), autocast_like(parts.trainer_options(), parts.device):
        latents = chain.encode_images(image[None])
        _refuse_non_finite(latents, edit, chain)
        inversion = chain.invert_latents(latents[None], refinements=_REFINEMENTS)
        denoised = chain(inversion.latents)
        alone = in_unit_range(chain.decode(latents)[0].float()).cpu()
    back = in_unit_range(denoised.images[0, 0].float()).cpu()
    for found in (denoised.latents, alone, back):
        _refuse_non_finite(found, edit, chain)
    error = max(float((stream - latents).norm() / latents.norm()) for stream in denoised.latents)
    metrics = {"inversion_error": error, "vae_psnr": _psnr(alone, image), "inversion_psnr": _psnr(back, image)}
    return Inverted(image, back, inversion.latents, metrics, chain.calls)


def _psnr(image: Tensor, reference: Tensor) -> float:
    """In dB; infinite for equal images."""
    error = float((image - reference).square().mean())
    return -10 * math.log10(error) if error else math.inf


def too_far_off(error: float, edit: Edit) -> str:
    """Why an inversion cannot be used; empty where it can."""
    if error <= edit.max_error:
        return ""
    return (
        f"IMAGE: the inversion of {str(edit.image)!r} does not lead back to it: relative error {error:.2g}, limit "
        f"{edit.max_error:g}. Use sampler=edict or sampler=belm, sampler.guidance_scale=1, "
        "trainer.precision=32-true, or more sampler.num_inference_steps; or raise --max-error"
    )


def _refuse_non_finite(found: Tensor, edit: Edit, chain: Chain) -> None:
    from sgool.methods.evaluations import mend_of_overflow

    if not bool(found.isfinite().all()):
        made = f"IMAGE: what the networks make of {str(edit.image)!r} is not finite"
        raise NonFiniteInversion(made + mend_of_overflow(chain))
