"""TranSalNet as a detector, with the published preprocessing (on the device, differentiable) and strict loading."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.models.assets import resolve_asset
from sgool.models.checkpoints import load_strictly, read_state
from sgool.models.networks import Networks
from sgool.saliency.base import check_images, normalise_map
from sgool.saliency.options import weights_problems
from sgool.saliency.transalnet_network import ARCHITECTURES, TranSalNet

#: Value that the published preprocessing puts around an image of another aspect ratio: 1 of 255.
_PADDING = 1 / 255


class TransalnetDetector:
    """A detector that has learnt from eye tracking where people look (Lou et al. 2022).

    Args:
        network: The network; it is frozen and put into evaluation mode.
        input_size: Size (H, W) of the network's input.
        channel_order: Order of the network's input channels. "bgr": as in the published test code, which reads files
            with OpenCV; "rgb": as in the published training code.
    """

    def __init__(
        self, network: TranSalNet, input_size: tuple[int, int], channel_order: Literal["bgr", "rgb"] = "bgr"
    ) -> None:
        if channel_order not in ("bgr", "rgb"):
            raise ConfigError([f"saliency.detector.channel_order must be 'bgr' or 'rgb', got {channel_order!r}."])
        self.network = network.eval().requires_grad_(False)
        self.input_size = input_size
        self.channel_order = channel_order

    def __call__(self, images: Tensor) -> Tensor:
        """Makes the saliency maps of images, differentiably.

        Args:
            images: (B, 3, H, W), RGB; clamped to [0, 1].

        Returns:
            (B, 1, H, W) in [0, 1], in the weights' dtype, at least float32.

        Raises:
            SgoolError: Images, and so maps, are not finite.
            ValueError: The images have another shape.
        """
        check_images(images)
        weight = next(self.network.parameters())
        with torch.autocast(images.device.type, enabled=False):
            pixels = images.to(weight.device, weight.dtype).clamp(0, 1)
            pixels = pixels.flip(1) if self.channel_order == "bgr" else pixels
            maps = self.network(fit_into(pixels, self.input_size))
            maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
            return normalise_map(cut_back(maps, (images.shape[-2], images.shape[-1])))


def load_transalnet(
    weights: str,
    backbone: str = "resnet50",
    channel_order: Literal["bgr", "rgb"] = "bgr",
    device: str | torch.device = "cpu",
) -> TransalnetDetector:
    """Loads the detector with the weights of a file.

    Args:
        weights: A ``.pth`` or ``.safetensors`` file in the published layout; weights are float32 after loading.
        backbone: A key of `ARCHITECTURES`.
        channel_order: See `TransalnetDetector`.
        device: Device of the network.

    Raises:
        ConfigError: The backbone is unknown, or there is no such file.
        SgoolError: The file cannot be read, or has another layout.
    """
    if backbone not in ARCHITECTURES:
        raise ConfigError([f"saliency.detector.backbone must be one of {', '.join(ARCHITECTURES)}, got {backbone!r}."])
    file = Path(resolve_asset(weights)).expanduser()
    if problems := list(weights_problems(weights, backbone)):
        raise ConfigError(problems)
    architecture = ARCHITECTURES[backbone]
    with torch.random.fork_rng(devices=()):  # the random initial weights must not change the global generator
        network = TranSalNet(architecture)
    try:
        load_strictly(network, read_state(file), file)
    except SgoolError as error:
        raise SgoolError(f"`saliency.detector.weights`, with saliency.detector.backbone={backbone}: {error}") from error
    return TransalnetDetector(network.to(device), architecture.input_size, channel_order)


def build_transalnet(
    weights: str, backbone: str, channel_order: Literal["bgr", "rgb"], networks: Networks
) -> TransalnetDetector:
    """Builds the detector of a validated configuration from `TranSalNetOptions`; its network is loaded once."""
    return networks.shared(
        ("transalnet", weights, backbone, channel_order),
        lambda: load_transalnet(weights, backbone, channel_order, networks.device),
    )


def fit_into(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes without changing the aspect ratio and pads around the centre, as the published preprocessing does.

    Interpolation is bilinear without anti-aliasing, like OpenCV's INTER_LINEAR. Sides are rounded down. The padding is
    1 of 255.

    Args:
        images: (B, 3, h, w) in [0, 1].
        size: (H, W) to fit into.

    Returns:
        (B, 3, H, W).
    """
    (height, width), (rows, columns) = images.shape[-2:], size
    tall = height * columns > width * rows
    inner = (rows, max(1, width * rows // height)) if tall else (max(1, height * columns // width), columns)
    resized = _resize(images, inner)
    top, left = (rows - inner[0]) // 2, (columns - inner[1]) // 2
    around = (left, columns - inner[1] - left, top, rows - inner[0] - top)
    return F.pad(resized, around, value=_PADDING)


def cut_back(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Undoes `fit_into`: resizes maps to cover an image's size and cuts out the centre.

    Args:
        maps: (B, 1, H, W).
        size: (h, w) of the image.

    Returns:
        (B, 1, h, w).
    """
    (rows, columns), (height, width) = maps.shape[-2:], size
    tall = height * columns > width * rows
    outer = (height, columns * height // rows) if tall else (rows * width // columns, width)
    resized = _resize(maps, outer)
    top, left = (outer[0] - height) // 2, (outer[1] - width) // 2
    return resized[..., top : top + height, left : left + width]


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=False)
