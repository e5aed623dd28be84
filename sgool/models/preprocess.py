"""Preprocesses images in [0, 1] for a network: size, mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sgool.models.resize import Interpolation, Resize

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocess(nn.Module):
    """Preprocessing by the network's own resize and crop, and normalisation.

    Square images of the network's size are only normalised: they are views, or were resized before.

    Args:
        size: Side in pixels of the square that the network sees.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel.
        interpolation: Interpolation of the resize, if ``resize`` is None.
        resize: The network's own resize and crop of whole images; None: the shortest side is resized to ``size``, and
            the centre is cropped.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: Interpolation = "bicubic",
        resize: Resize | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.resize = Resize(size=size, interpolation=interpolation) if resize is None else resize
        # Plain numbers beside the buffers, which a network moved to a narrow type would round.
        self._constants = tuple(map(float, mean)), tuple(map(float, std))
        for name, values in zip(("mean", "std"), self._constants, strict=True):
            value = torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Converts images (N, 3, h, w), nominally in [0, 1] (not clamped), to the network's input of type ``dtype``.

        Returns:
            (N, 3, size, size), differentiable with respect to the images.

        Raises:
            ValueError: The images have another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise ValueError(f"expected images of shape (N, 3, h, w), N >= 1, got {tuple(images.shape)}")
        images = images.to(self.mean.device, torch.promote_types(dtype, torch.float32))
        if tuple(images.shape[-2:]) != (self.size, self.size):
            images = self.resize(images)
        return self.normalise(images, dtype)

    def normalise(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Subtracts the mean from images (N, 3, h, w) in [0, 1], divides by the deviation, and converts to ``dtype``.

        It computes in at least float32, since a narrower type would lose levels.
        """
        device, precise = self.mean.device, torch.promote_types(dtype, torch.float32)
        mean, std = (torch.tensor(v, dtype=precise, device=device).view(1, 3, 1, 1) for v in self._constants)
        return ((images.to(device, precise) - mean) / std).to(dtype)


def frozen(network: nn.Module) -> nn.Module:
    """Puts a network into evaluation mode, so that images stay independent, and switches its weights' gradients off."""
    return network.eval().requires_grad_(False)
