"""The pixels of Qwen-VL's image processor, differentiably."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Pillow's number of bicubic interpolation, the only one that Qwen-VL's processors use.
_BICUBIC = 3


@dataclass(frozen=True)
class PatchedPixels:
    """Resizes, normalises and cuts an image into patches as transformers' ``Qwen2VLImageProcessor`` does.

    The processor resizes 8-bit images and rounds after each of its two passes; this resizes in floating point, so
    results differ by little more than one level of 255. Values that the bicubic resize puts outside [0, 1] are clamped
    as there, but their gradient passes.

    Attributes:
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel.
        patch: Side of a patch in pixels.
        merge: Side, in patches, of the squares that the network merges to one token.
        frames: How often the image is repeated in time.
    """

    mean: Sequence[float]
    std: Sequence[float]
    patch: int
    merge: int
    frames: int

    @classmethod
    def of(cls, processor: Any) -> PatchedPixels:
        """Reads the settings of a processor.

        Raises:
            ValueError: It resizes by another interpolation.
            AttributeError: It is another kind of processor.
        """
        if int(processor.resample) != _BICUBIC:
            raise ValueError(f"expected bicubic interpolation, got {processor.resample}")
        return cls(
            tuple(processor.image_mean),
            tuple(processor.image_std),
            int(processor.patch_size),
            int(processor.merge_size),
            int(processor.temporal_patch_size),
        )

    def __call__(self, image: Tensor, grid: Tensor) -> Tensor:
        """Returns the patches (h·w, 3·frames·patch²) of an image (3, H, W), nominally in [0, 1].

        Args:
            image: The image; the gradient flows to it.
            grid: (1, 3): 1, and the numbers of patches h and w, as the processor chose them.
        """
        _, rows, columns = grid[0].tolist()
        image = image[None].to(torch.promote_types(image.dtype, torch.float32))
        size = (rows * self.patch, columns * self.patch)
        if tuple(image.shape[-2:]) != size:
            image = F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True)
        image = image + (image.clamp(0, 1) - image).detach()
        mean, std = (torch.tensor(v, dtype=image.dtype, device=image.device).view(1, 3, 1, 1) for v in self._constants)
        image = (image - mean) / std
        p, m = self.patch, self.merge
        cut = image.view(3, rows // m, m, p, columns // m, m, p).permute(1, 4, 2, 5, 0, 3, 6)
        # (h/m, w/m, m, m, 3, p, p): the m x m patches of a token lie side by side.
        return cut.unsqueeze(5).expand(*cut.shape[:5], self.frames, p, p).reshape(rows * columns, -1)

    def levels(self, difference: Tensor) -> float:
        """Returns the largest of some differences of patches, in levels of 255."""
        by_channel = difference.view(len(difference), 3, -1).abs().amax(dim=(0, 2))
        return float((by_channel * torch.tensor(self.std).to(by_channel)).max() * 255)

    @property
    def _constants(self) -> tuple[Sequence[float], Sequence[float]]:
        return self.mean, self.std
