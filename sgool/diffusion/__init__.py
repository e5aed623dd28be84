"""The differentiable denoising chain: samplers, gradient engines, the guided network, inversion."""

from sgool.diffusion.build import build_engine, build_sampler
from sgool.diffusion.chain import Chain
from sgool.diffusion.engines import Engine
from sgool.diffusion.invert import Inversion
from sgool.diffusion.network import GuidedModel
from sgool.diffusion.sampler import Sampler

__all__ = ["Chain", "Engine", "GuidedModel", "Inversion", "Sampler", "build_engine", "build_sampler"]
