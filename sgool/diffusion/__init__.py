"""The differentiable denoising chain: schedule, samplers, gradient engines, the network, decoding, inversion.

The names below are imported from their modules on first use: `sgool.diffusion.options` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgool.config.lazy import lazy_exports

if TYPE_CHECKING:
    from sgool.diffusion.build import build_engine as build_engine
    from sgool.diffusion.build import build_sampler as build_sampler
    from sgool.diffusion.chain import Sampler as Sampler
    from sgool.diffusion.chain import denoise as denoise
    from sgool.diffusion.chain import network_calls as network_calls
    from sgool.diffusion.decode import decode_latents as decode_latents
    from sgool.diffusion.decode import encode_images as encode_images
    from sgool.diffusion.engines import Engine as Engine
    from sgool.diffusion.invert import Inversion as Inversion
    from sgool.diffusion.network import GuidedModel as GuidedModel
    from sgool.diffusion.schedule import Schedule as Schedule
    from sgool.diffusion.schedule import Step as Step
    from sgool.diffusion.schedule import build_schedule as build_schedule

_MODULES = {
    "Engine": "engines",
    "GuidedModel": "network",
    "Inversion": "invert",
    "Sampler": "chain",
    "Schedule": "schedule",
    "Step": "schedule",
    "build_engine": "build",
    "build_sampler": "build",
    "build_schedule": "schedule",
    "decode_latents": "decode",
    "denoise": "chain",
    "encode_images": "decode",
    "network_calls": "chain",
}

__all__ = [
    "Engine",
    "GuidedModel",
    "Inversion",
    "Sampler",
    "Schedule",
    "Step",
    "build_engine",
    "build_sampler",
    "build_schedule",
    "decode_latents",
    "denoise",
    "encode_images",
    "network_calls",
]

__getattr__ = lazy_exports(__name__, _MODULES)
