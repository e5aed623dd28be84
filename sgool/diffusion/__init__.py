"""The differentiable denoising chain: schedule, samplers, gradient engines, the network, decoding, inversion."""

from sgool.diffusion.build import build_engine, build_sampler
from sgool.diffusion.chain import Sampler, denoise, network_calls
from sgool.diffusion.decode import decode_latents, encode_images
from sgool.diffusion.engines import Engine
from sgool.diffusion.invert import Inversion, invert
from sgool.diffusion.network import GuidedModel
from sgool.diffusion.schedule import Schedule, Step, build_schedule

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
    "invert",
    "network_calls",
]
