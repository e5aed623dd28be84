"""The differentiable denoising chain: samplers, gradient engines, the guided network, inversion.

The names below are imported from their modules on first use: `sgool.diffusion.options` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgool.config.lazy import lazy_exports

if TYPE_CHECKING:
    from sgool.diffusion.build import build_engine as build_engine
    from sgool.diffusion.build import build_sampler as build_sampler
    from sgool.diffusion.chain import Chain as Chain
    from sgool.diffusion.engines import Engine as Engine
    from sgool.diffusion.invert import Inversion as Inversion
    from sgool.diffusion.network import GuidedModel as GuidedModel
    from sgool.diffusion.sampler import Sampler as Sampler

_MODULES = {
    "Chain": "chain",
    "Engine": "engines",
    "GuidedModel": "network",
    "Inversion": "invert",
    "Sampler": "sampler",
    "build_engine": "build",
    "build_sampler": "build",
}

__all__ = ["Chain", "Engine", "GuidedModel", "Inversion", "Sampler", "build_engine", "build_sampler"]

__getattr__ = lazy_exports(__name__, _MODULES)
