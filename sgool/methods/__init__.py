"""Methods: LightningModules that turn batches of prompt-seed pairs into images.

The names below are imported from their modules on first use: `sgool.methods.options` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgool.config.lazy import lazy_exports

if TYPE_CHECKING:
    from sgool.methods.base import PairModule as PairModule
    from sgool.methods.best_of_n import BestOfN as BestOfN
    from sgool.methods.clip_guidance import ClipGuidance as ClipGuidance
    from sgool.methods.evolution import Evolution as Evolution
    from sgool.methods.fk_steering import FKSteering as FKSteering
    from sgool.methods.latent_pairs import LatentPairModule as LatentPairModule
    from sgool.methods.strategy import PairParallelStrategy as PairParallelStrategy
    from sgool.methods.vanilla import Vanilla as Vanilla
    from sgool.methods.zero_order import ZeroOrder as ZeroOrder

_MODULES = {
    "BestOfN": "best_of_n",
    "ClipGuidance": "clip_guidance",
    "Evolution": "evolution",
    "FKSteering": "fk_steering",
    "LatentPairModule": "latent_pairs",
    "PairModule": "base",
    "PairParallelStrategy": "strategy",
    "Vanilla": "vanilla",
    "ZeroOrder": "zero_order",
}

__all__ = [
    "BestOfN",
    "ClipGuidance",
    "Evolution",
    "FKSteering",
    "LatentPairModule",
    "PairModule",
    "PairParallelStrategy",
    "Vanilla",
    "ZeroOrder",
]

__getattr__ = lazy_exports(__name__, _MODULES)
