"""Small terms on pixels, without networks: symmetry, colour, sharpness; good examples for a term of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sgool.objectives.terms import Goal, towards
from sgool.types import PromptSeed


class Symmetry:
    """A term: mean squared difference of the image to its mirror image (DOODL's symmetry demo).

    DOODL counts pixels in [-1, 1], where the loss is 4 times as large: a weight of 4 is the same.

    Args:
        axis: Direction of the mirroring: ``horizontal`` swaps left and right, ``vertical`` top and bottom.
        name: Name in logs.
    """

    input_size = None
    #: DOODL's code does not clamp the image of this term, as it does for its networks.
    unclamped = True

    def __init__(self, axis: Literal["horizontal", "vertical"] = "horizontal", name: str = "symmetry") -> None:
        self.name, self.axis = name, axis
        self._dim = -1 if axis == "horizontal" else -2

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Returns an empty tensor (B, 0), since the loss does not depend on the prompt."""
        return torch.zeros(len(pairs), 0)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (B,) of images (B, 3, H, W)."""
        return (views - views.flip(self._dim)).square().mean(dim=(1, 2, 3))


class Color:
    """A term: mean squared difference of the mean colour, of the image or of a box in it, to a target.

    Args:
        rgb: The target colour, each channel in [0, 1].
        region: (top, left, bottom, right) as fractions of the image's sides; None: the whole image.
        name: Name in logs.
    """

    input_size = None

    def __init__(self, rgb: Sequence[float], region: Sequence[float] | None = None, name: str = "color") -> None:
        self.name = name
        self._rgb = torch.tensor(list(rgb), dtype=torch.float64)
        self._region = tuple(region) if region is not None else (0.0, 0.0, 1.0, 1.0)

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Returns the target colour as (B, 3), the same row for every pair."""
        return self._rgb.expand(len(pairs), 3)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (B,) of images (B, 3, H, W)."""
        height, width = views.shape[-2:]
        top, left, bottom, right = self._region
        rows = slice(int(top * height), max(int(top * height) + 1, round(bottom * height)))
        columns = slice(int(left * width), max(int(left * width) + 1, round(right * width)))
        mean = views[..., rows, columns].mean(dim=(2, 3))
        return (mean - targets.to(mean)).square().mean(dim=1)


class Sharpness:
    """A term: mean square of the Laplacian of the luminance, maximised, minimised or brought to a number.

    It is 0 for a flat image. Noise counts as sharp, so give this term a small weight or a number to aim at.

    Args:
        goal: ``maximize``, ``minimize`` or a number to aim at.
        name: Name in logs.
    """

    input_size = None

    def __init__(self, goal: Goal = "maximize", name: str = "sharpness") -> None:
        self.name, self.goal = name, goal

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Returns an empty tensor (B, 0), since the loss does not depend on the prompt."""
        return torch.zeros(len(pairs), 0)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (B,) of images (B, 3, H, W), each side 3 pixels or more."""
        luminance = (views * views.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        kernel = views.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        laplacian = F.conv2d(luminance, kernel[None, None])
        return towards(laplacian.square().mean(dim=(1, 2, 3)), self.goal)
