"""Methods: LightningModules that turn batches of prompt-seed pairs into images."""

from sgool.methods.base import PairModule
from sgool.methods.best_of_n import BestOfN
from sgool.methods.clip_guidance import ClipGuidance
from sgool.methods.latent_pairs import LatentPairModule
from sgool.methods.strategy import PairParallelStrategy
from sgool.methods.vanilla import Vanilla

__all__ = ["BestOfN", "ClipGuidance", "LatentPairModule", "PairModule", "PairParallelStrategy", "Vanilla"]
