"""Saliency detectors that serve as controls: the true masks of the embedded world, and attention in a wrong place.

`CONTROLS` is the folder of their configurations, for ``--config-dir``.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from torch import Tensor

from sgool.models.networks import Networks
from sgool.saliency.base import check_images
from sgool.saliency.build import build_detector

CONTROLS = Path(__file__).parent


class TrueMasks:
    """Where the things are: pixels that differ from the plain background, in which the embedded world paints.

    The background is the median colour of the image's border. It is an upper bound for detectors: no network takes
    part, and in a painted scene nothing but its things is marked.

    Args:
        least: Largest difference of a channel from the background, in [0, 1], up to which a pixel belongs to it.
    """

    def __init__(self, least: float = 0.15) -> None:
        self._least = least

    def __call__(self, images: Tensor) -> Tensor:
        """Returns maps (B, 1, H, W) of 0 and 1 of images (B, 3, H, W) in [0, 1]."""
        check_images(images)
        border = torch.cat([images[..., :2, :].flatten(2), images[..., -2:, :].flatten(2)], dim=2)
        sides = torch.cat([images[..., :2].flatten(2), images[..., -2:].flatten(2)], dim=2)
        background = torch.cat([border, sides], dim=2).median(dim=2).values[..., None, None]
        differs = (images - background).abs().amax(dim=1, keepdim=True) > self._least
        return differs.to(torch.promote_types(images.dtype, torch.float32))


class WrongPlaces:
    """TranSalNet's map of each image, shifted by a random number of rows and columns: as much attention, elsewhere.

    What leaves the image on one side comes in on the other. The shift is drawn from the image's own pixels, so that it
    does not depend on the batch and a run that is interrupted goes on to the same bits.

    Args:
        networks: The run's networks.
        weights: Of the detector, as in ``saliency=transalnet_emoji``.
    """

    def __init__(self, networks: Networks, weights: str = "emoji_world/saliency/transalnet.safetensors") -> None:
        own = {"name": "transalnet", "weights": weights, "backbone": "densenet_small", "channel_order": "rgb"}
        self._detector = build_detector(own, networks)

    def __call__(self, images: Tensor) -> Tensor:
        """Returns maps (B, 1, H, W) of images (B, 3, H, W) in [0, 1]."""
        maps = self._detector(images)
        return torch.stack([self._shifted(one, image) for one, image in zip(maps, images, strict=True)])

    def _shifted(self, saliency: Tensor, image: Tensor) -> Tensor:
        pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        generator = torch.Generator().manual_seed(zlib.crc32(pixels.tobytes()))
        rows, columns = (int(torch.randint(side, (), generator=generator)) for side in saliency.shape[-2:])
        return saliency.roll((rows, columns), dims=(-2, -1))
