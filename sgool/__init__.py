"""Saliency-guided optimisation of diffusion latents.

The names below are imported from their modules on first use, so that ``import sgool`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgool.callbacks import default_callbacks as default_callbacks
    from sgool.diffusion.chain import Chain as Chain
    from sgool.methods.latent_pairs import LatentPairModule as LatentPairModule
    from sgool.models.clip import load_clip as load_clip
    from sgool.models.load import load_models as load_models
    from sgool.objectives import Objective as Objective
    from sgool.objectives import TextAlignment as TextAlignment
    from sgool.run.fit import fit as fit
    from sgool.types import PromptSeed as PromptSeed

__version__ = "0.1.0"

_MODULES = {
    "Chain": "sgool.diffusion.chain",
    "LatentPairModule": "sgool.methods.latent_pairs",
    "Objective": "sgool.objectives",
    "PromptSeed": "sgool.types",
    "TextAlignment": "sgool.objectives",
    "default_callbacks": "sgool.callbacks",
    "fit": "sgool.run.fit",
    "load_clip": "sgool.models.clip",
    "load_models": "sgool.models.load",
}

__all__ = [
    "Chain",
    "LatentPairModule",
    "Objective",
    "PromptSeed",
    "TextAlignment",
    "__version__",
    "default_callbacks",
    "fit",
    "load_clip",
    "load_models",
]


def __getattr__(name: str) -> Any:
    """Imports an exported name from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Exported names, imported or not."""
    return sorted({*globals(), *__all__})
