"""The spectral residual of Hou & Zhang (CVPR 2007), a detector without weights, on Lab channels at several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sgool.errors import ConfigError
from sgool.saliency.base import check_images, normalise_map

#: Linear sRGB to XYZ (IEC 61966-2-1), rows divided by the D65 white point (0.95047, 1, 1.08883).
_RGB_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
#: Contrast (standard deviation) in Lab units, of which L has 100, below which a channel is flat up to rounding.
_FLAT = 1e-3


class SpectralResidual:
    """A detector that finds what differs from the smooth trend of the image's log amplitude spectrum.

    Each Lab channel at each scale gives a map. Maps are weighted by the channel's contrast, since the method whitens,
    and would otherwise make as much of the noise of a flat channel as of an object. A uniform image gives zeros.

    Args:
        scales: Smaller sides in pixels to which the image is shrunk (never enlarged). The paper uses 64, which finds
            outlines of large objects; smaller scales fill them.
        blur_sigma: Standard deviation of the final Gaussian as a fraction of the shrunk image's smaller side. The
            published code has 2.5 pixels of 64, which is 0.04.

    Raises:
        ConfigError: There are no scales, a scale is below 8, or the blur is not positive.
    """

    def __init__(self, scales: Sequence[int] = (64, 32), blur_sigma: float = 0.05) -> None:
        problems = []
        if not scales or any(int(scale) != scale or scale < 8 for scale in scales):
            problems.append(f"saliency.scales must be whole numbers of at least 8 pixels, got {list(scales)}.")
        if not (math.isfinite(blur_sigma) and blur_sigma > 0):
            problems.append(f"saliency.blur_sigma must be a positive fraction of the image's side, got {blur_sigma}.")
        if problems:
            raise ConfigError(problems)
        self.scales = tuple(int(scale) for scale in scales)
        self.blur_sigma = float(blur_sigma)

    def __call__(self, images: Tensor) -> Tensor:
        """Makes the saliency maps of images; half precision is computed in float32.

        Args:
            images: (B, 3, H, W); clamped to [0, 1].

        Returns:
            (B, 1, H, W) in [0, 1], at least float32.

        Raises:
            SgoolError: Images are not finite.
            ValueError: The images have another shape.
        """
        check_images(images)
        # Fourier transforms and antialiased resizing exist in full precision only.
        with torch.autocast(images.device.type, enabled=False):
            lab = rgb_to_lab(images.to(torch.promote_types(images.dtype, torch.float32)))
            size = lab.shape[-2:]
            total = torch.stack([self._at_scale(lab, scale, size) for scale in self.scales]).mean(dim=0)
            return normalise_map(total)

    def _at_scale(self, lab: Tensor, scale: int, size: Sequence[int]) -> Tensor:
        """Returns the map (B, 1, H, W) of one scale, of mean 1 (0 for a flat image), so that scales count equally."""
        ratio = min(1.0, scale / min(size))
        shape = [max(1, round(side * ratio)) for side in size]
        small = F.interpolate(lab, shape, mode="bilinear", antialias=True) if ratio < 1 else lab
        contrast = small.std(dim=(2, 3), keepdim=True, correction=0)
        weight = torch.where(contrast > _FLAT, contrast, 0)
        maps = spectral_residual(small, self.blur_sigma * min(shape))
        maps = maps / maps.mean(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        total = weight.sum(dim=1, keepdim=True)
        combined = (weight * maps).sum(dim=1, keepdim=True) / torch.where(total > 0, total, 1)
        return F.interpolate(combined, list(size), mode="bilinear", align_corners=False) if ratio < 1 else combined


def spectral_residual(channels: Tensor, sigma: float) -> Tensor:
    """Returns Hou & Zhang's map of each channel, at the channel's own size.

    The log amplitude of the Fourier transform, minus its 3x3 mean (edges repeated, as in the published code), is
    transformed back with the old phase. The map is the squared magnitude of this, blurred by a Gaussian.

    Args:
        channels: (B, C, h, w), float32 or float64.
        sigma: Standard deviation of the blur in pixels.

    Returns:
        (B, C, h, w), not negative, not normalised.
    """
    spectrum = torch.fft.fft2(channels)
    amplitude = spectrum.abs()
    # The floor is relative to the channel's strongest frequency; the log of a frequency that is 0 up to rounding would
    # be noise.
    floor = amplitude.amax(dim=(2, 3), keepdim=True) * torch.finfo(channels.dtype).eps
    log_amplitude = (amplitude + floor + torch.finfo(channels.dtype).tiny).log()
    trend = F.avg_pool2d(F.pad(log_amplitude, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    residual = torch.polar((log_amplitude - trend).exp(), spectrum.angle())
    energy = torch.fft.ifft2(residual).abs().square()
    return gaussian_blur(energy, sigma)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blurs images by a Gaussian, cut at 4 sigma, edges repeated: ``scipy.ndimage.gaussian_filter(mode="nearest")``.

    Args:
        images: (B, C, h, w).
        sigma: Standard deviation in pixels.

    Returns:
        (B, C, h, w).
    """
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    number = images.shape[1]
    padded = F.pad(images, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(number, 1, -1, 1), groups=number)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(number, 1, 1, -1), groups=number)


def rgb_to_lab(images: Tensor) -> Tensor:
    """Converts sRGB images to CIE Lab (D65).

    Args:
        images: (B, 3, H, W), clamped to [0, 1].

    Returns:
        (B, 3, H, W): L in [0, 100], a and b about -110 to 110.
    """
    rgb = images.clamp(0, 1)
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = torch.tensor(_RGB_TO_XYZ, dtype=images.dtype, device=images.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    delta = 6 / 29
    # The clamp keeps the unused branch's gradient finite at black.
    cubic = xyz.clamp_min(delta**3) ** (1 / 3)
    f = torch.where(xyz > delta**3, cubic, xyz / (3 * delta**2) + 4 / 29)
    x, y, z = f.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
