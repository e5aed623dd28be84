"""The knobs of an objective, checked when made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sgool.errors import ConfigError
from sgool.saliency.base import BindableDetector, SaliencyDetector
from sgool.saliency.regions import region_problems
from sgool.types import PromptSeed


@dataclass(frozen=True)
class CropSettings:
    """Random global crops.

    Attributes:
        num: Crops per image and step; 0: the whole image is the one view.
        power: Exponent of the crops' sides; see `sgool.objectives.crops.random_boxes`.
        min_side: Smallest side as a fraction of the image's smaller side, in (0, 1].
        reduction: "min", as DOODL's code does, or "mean", as its text reads, over an image's crops.

    Raises:
        ConfigError: All values outside their range at once.
    """

    num: int = 16
    power: float = 0.3
    min_side: float = 0.45
    reduction: Literal["min", "mean"] = "min"

    def __post_init__(self) -> None:
        problems = []
        if self.num < 0 or int(self.num) != self.num:
            problems.append(f"crops.num must be a whole number, 0 or more, got {self.num}.")
        if not (math.isfinite(self.power) and self.power >= 0):
            problems.append(f"crops.power must be 0 or more, got {self.power}.")
        if not 0 < self.min_side <= 1:
            problems.append(
                f"crops.min_side must be in (0, 1], a fraction of the image's smaller side, got {self.min_side}."
            )
        if self.reduction not in ("min", "mean"):
            problems.append(f"crops.reduction must be 'min' or 'mean', got {self.reduction!r}.")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class SaliencySettings:
    """Salient regions as further views. The paper publishes none of these numbers: each is a knob.

    Attributes:
        detector: Images to maps.
        threshold: Fraction of a map's maximum from which a pixel is salient, in (0, 1].
        max_regions: Regions per image at most.
        margin: Added around a region on each side, as a fraction of its larger side.
        min_side: Smallest side of a region's box as a fraction of the image's smaller side, in [0, 1].
        every_n_steps: Detect at steps divisible by this; the boxes stay in between.
        w_global: Weight of the global crops.
        w_salient: Weight of the regions. The default weights sum to 1: the loss keeps the scale that it has without
            saliency, and learning rates carry over.

    Raises:
        ConfigError: All values outside their range at once.
    """

    detector: SaliencyDetector
    threshold: float = 0.5
    max_regions: int = 3
    margin: float = 0.1
    min_side: float = 0.3
    every_n_steps: int = 1
    w_global: float = 0.5
    w_salient: float = 0.5

    def __post_init__(self) -> None:
        problems = region_problems(self.threshold, self.max_regions, self.margin, self.min_side)
        if self.every_n_steps < 1 or int(self.every_n_steps) != self.every_n_steps:
            problems.append(f"saliency.every_n_steps must be a whole number, 1 or more, got {self.every_n_steps}.")
        for name in ("w_global", "w_salient"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                problems.append(f"saliency.{name} must be 0 or more, got {value}.")
        if self.w_global == 0 == self.w_salient:
            problems.append("saliency.w_global and saliency.w_salient are both 0: nothing would be optimised.")
        if problems:
            raise ConfigError(problems)

    def bind(self, pairs: Sequence[PromptSeed]) -> SaliencySettings:
        """With the detector of these pairs, if it is one that looks at the prompts too."""
        if not isinstance(self.detector, BindableDetector):
            return self
        return replace(self, detector=self.detector.bind(pairs))
