"""Settings of an objective's views, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sgool.errors import ConfigError
from sgool.saliency.base import BindableDetector, SaliencyDetector
from sgool.saliency.regions import region_problems
from sgool.types import PromptSeed


@dataclass(frozen=True)
class CropSettings:
    """Settings of the random global crops.

    Attributes:
        num: Number of crops per image and update; 0: the whole image is the one view.
        power: Exponent of the crops' sides; see `sgool.objectives.crops.random_boxes`.
        min_side: Smallest side as a fraction of the image's smaller side, in (0, 1].
        reduction: Reduction over an image's crops: "min", as in DOODL's code, or "mean", as in its text.

    Raises:
        ConfigError: Values are outside their range; it lists all of them.
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
    """Settings of the salient regions, which are further views; the paper publishes none of these numbers.

    Attributes:
        detector: The detector, which makes maps of images.
        threshold: Fraction of a map's maximum from which a pixel is salient, in (0, 1].
        max_regions: Largest number of regions per image.
        margin: Margin around a region on each side, as a fraction of its larger side.
        min_side: Smallest side of a region's box as a fraction of the image's smaller side, in [0, 1].
        every_n_steps: Regions are detected at updates divisible by this, and kept in between.
        w_global: Weight of the global crops.
        w_salient: Weight of the regions. The default weights sum to 1, so that the loss has the same scale as without
            saliency, and suits the same learning rates.
        match: "prompt": each region answers for the whole prompt. "phrases": each phrase of the prompt has to be seen
            in some region (`sgool.objectives.matching`).
        assign: Which region answers for a phrase: "softmin" or "hungarian".
        match_temperature: Temperature of the soft minimum, above 0, in the unit of a term's loss.
        match_masses: Whether a region with more saliency counts as nearer.

    Raises:
        ConfigError: Values are outside their range; it lists all of them.
    """

    detector: SaliencyDetector
    threshold: float = 0.5
    max_regions: int = 3
    margin: float = 0.1
    min_side: float = 0.3
    every_n_steps: int = 1
    w_global: float = 0.5
    w_salient: float = 0.5
    match: Literal["prompt", "phrases"] = "prompt"
    assign: Literal["softmin", "hungarian"] = "softmin"
    match_temperature: float = 0.02
    match_masses: bool = False

    def __post_init__(self) -> None:
        problems = region_problems(self.threshold, self.max_regions, self.margin, self.min_side)
        if self.every_n_steps < 1 or int(self.every_n_steps) != self.every_n_steps:
            problems.append(f"saliency.every_n_steps must be a whole number, 1 or more, got {self.every_n_steps}.")
        for name in ("w_global", "w_salient"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                problems.append(f"saliency.{name} must be 0 or more, got {value}.")
        for name, known in (("match", ("prompt", "phrases")), ("assign", ("softmin", "hungarian"))):
            if getattr(self, name) not in known:
                problems.append(f"saliency.{name} must be {known[0]!r} or {known[1]!r}, got {getattr(self, name)!r}.")
        if not (math.isfinite(self.match_temperature) and self.match_temperature > 0):
            problems.append(f"saliency.match_temperature must be above 0, got {self.match_temperature}.")
        if self.w_global == 0 == self.w_salient:
            problems.append("saliency.w_global and saliency.w_salient are both 0: nothing would be optimised.")
        if problems:
            raise ConfigError(problems)

    def bind(self, pairs: Sequence[PromptSeed]) -> SaliencySettings:
        """Returns the settings with the detector for these pairs, if it depends on pairs, or else these settings."""
        if not isinstance(self.detector, BindableDetector):
            return self
        return replace(self, detector=self.detector.bind(pairs))


def weight_problems(terms: Mapping[str, Any], weights: Mapping[str, float]) -> list[str]:
    """Returns what is wrong with the weights of an objective's terms, by their names."""
    problems = []
    if not terms:
        problems.append("An objective needs at least one term, got none. Add one, for example text alignment.")
    if missing := sorted(terms.keys() - weights.keys()):
        problems.append(f"objective.weights has no entry for {', '.join(missing)}; expected one number per term.")
    if unknown := sorted(weights.keys() - terms.keys()):
        problems.append(
            f"objective.weights names {', '.join(unknown)}, which is no term; terms are {', '.join(terms) or 'none'}."
        )
    problems += [
        f"objective.weights.{name} must be a finite number, got {value}."
        for name, value in weights.items()
        if not math.isfinite(value)
    ]
    return problems
