"""Saliency-guided optimisation of diffusion latents.

The names below are imported from their modules on first use, so that ``import sgool`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgool.callbacks import RunWriter as RunWriter
    from sgool.callbacks import default_callbacks as default_callbacks
    from sgool.diffusion import Chain as Chain
    from sgool.methods import BestOfN as BestOfN
    from sgool.methods import ClipGuidance as ClipGuidance
    from sgool.methods import LatentPairModule as LatentPairModule
    from sgool.methods import PairParallelStrategy as PairParallelStrategy
    from sgool.methods import Vanilla as Vanilla
    from sgool.models.clip import load_clip as load_clip
    from sgool.models.load import load_models as load_models
    from sgool.objectives import Objective as Objective
    from sgool.objectives import TextAlignment as TextAlignment
    from sgool.pipeline import SGOOLPipeline as SGOOLPipeline
    from sgool.prompts.datamodule import PromptDataModule as PromptDataModule
    from sgool.run.fit import fit as fit
    from sgool.types import PromptSeed as PromptSeed

__version__ = "0.1.0"

_MODULES = {
    "BestOfN": "sgool.methods",
    "Chain": "sgool.diffusion",
    "ClipGuidance": "sgool.methods",
    "LatentPairModule": "sgool.methods",
    "Objective": "sgool.objectives",
    "PairParallelStrategy": "sgool.methods",
    "PromptDataModule": "sgool.prompts.datamodule",
    "PromptSeed": "sgool.types",
    "RunWriter": "sgool.callbacks",
    "SGOOLPipeline": "sgool.pipeline",
    "TextAlignment": "sgool.objectives",
    "Vanilla": "sgool.methods",
    "default_callbacks": "sgool.callbacks",
    "fit": "sgool.run.fit",
    "load_clip": "sgool.models.clip",
    "load_models": "sgool.models.load",
}

__all__ = [
    "BestOfN",
    "Chain",
    "ClipGuidance",
    "LatentPairModule",
    "Objective",
    "PairParallelStrategy",
    "PromptDataModule",
    "PromptSeed",
    "RunWriter",
    "SGOOLPipeline",
    "TextAlignment",
    "Vanilla",
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
