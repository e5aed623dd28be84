"""The differentiable denoising chain: schedule, samplers, gradient engines, noise prediction, decoding."""

from sgool.diffusion.chain import build_engine, build_sampler, denoise
from sgool.diffusion.decode import decode_latents
from sgool.diffusion.guidance import NoisePredictor
from sgool.diffusion.schedule import Schedule, Step, build_schedule

__all__ = [
    "NoisePredictor",
    "Schedule",
    "Step",
    "build_engine",
    "build_sampler",
    "build_schedule",
    "decode_latents",
    "denoise",
]
