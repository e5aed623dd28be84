from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.saliency.spectral_residual import SpectralResidual, gaussian_blur, rgb_to_lab, spectral_residual

BACKGROUNDS = ((0.9, 0.9, 0.9), (0.1, 0.1, 0.15), (0.6, 0.8, 1.0), (0.5, 0.5, 0.5))
COLOURS = ((0.8, 0.1, 0.1), (0.95, 0.85, 0.2), (0.2, 0.5, 0.25))


def disc(size: int, y: float, x: float, radius: float) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).float()


def scene(background: tuple[float, ...], colour: tuple[float, ...], mask: Tensor) -> Tensor:
    """(1, 3, H, W): a shape of one colour with a darker centre on a plain background."""
    back, fore = torch.tensor(background).view(1, 3, 1, 1), torch.tensor(colour).view(1, 3, 1, 1)
    return back * (1 - mask) + fore * mask


def hou_zhang(channel: np.ndarray, sigma: float, edge: str = "nearest") -> np.ndarray:
    """The paper's equations (9) to (11) in numpy and scipy; by default with the published code's edge rule."""
    transform = np.fft.fft2(channel)
    log_amplitude, phase = np.log(np.abs(transform)), np.angle(transform)
    residual = log_amplitude - ndimage.uniform_filter(log_amplitude, 3, mode=edge)
    back = np.fft.ifft2(np.exp(residual + 1j * phase))
    return ndimage.gaussian_filter(np.abs(back) ** 2, sigma, mode="nearest", truncate=4)


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (33, 47)])
def test_agrees_with_an_independent_hou_zhang(shape: tuple[int, int]) -> None:
    channel = np.random.default_rng(0).random(shape)
    expected = hou_zhang(channel, 2.5)
    result = spectral_residual(torch.from_numpy(channel)[None, None], 2.5)[0, 0].numpy()
    # float64; the floor inside the logarithm is 2e-16 of the strongest frequency, 1e-12 of the weakest ones.
    np.testing.assert_allclose(result, expected, rtol=1e-8)


def test_the_detector_is_one_scale_and_channel_of_it_for_grey_images() -> None:
    grey = torch.rand(1, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lightness = rgb_to_lab(grey.expand(1, 3, 64, 64))[0, 0].numpy()
    expected = hou_zhang(lightness, 0.04 * 64)
    expected = (expected - expected.min()) / np.ptp(expected)
    result = SpectralResidual(scales=(64,), blur_sigma=0.04)(grey.expand(1, 3, 64, 64))[0, 0].numpy()
    # A grey image has a = b = 0 up to the four-digit white point: contrast 1e-3 of 100 at most enters through them.
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_blur_agrees_with_scipy() -> None:
    image = np.random.default_rng(2).random((20, 31))
    expected = ndimage.gaussian_filter(image, 1.7, mode="nearest", truncate=4)
    result = gaussian_blur(torch.from_numpy(image).expand(2, 3, 20, 31), 1.7)
    np.testing.assert_allclose(result[1, 2].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),
        ((0.0, 1.0, 0.0), (87.73, -86.18, 83.18)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
        ((0.5, 0.5, 0.5), (53.39, 0.0, 0.0)),
        ((0.02, 0.02, 0.02), (1.40, 0.0, 0.0)),
    ],
)
def test_lab_of_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    image = torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1)
    # Published values of the primaries (D65), to two digits; their white points differ in the fifth.
    torch.testing.assert_close(rgb_to_lab(image).flatten(), torch.tensor(lab, dtype=torch.float64), atol=0.02, rtol=0)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("size", "y", "x", "radius"), [(64, 30, 34, 9), (64, 18, 45, 12), (128, 80, 50, 20)])
def test_fires_on_an_object_on_a_plain_background(
    background: tuple[float, ...], colour: tuple[float, ...], size: int, y: float, x: float, radius: float
) -> None:
    saliency = SpectralResidual()(scene(background, colour, disc(size, y, x, radius)))[0, 0]
    assert saliency.shape == (size, size) and saliency.min() == 0 and saliency.max() == 1
    near = disc(size, y, x, 1.5 * radius).bool()
    peak = divmod(int(saliency.argmax()), size)
    assert near[peak]
    assert saliency[near].mean() > 4 * saliency[~near].mean()


def test_colour_alone_is_enough() -> None:
    # Red and grey of the same lightness: L is flat but for rounding, a and b are not.
    mask = disc(64, 40, 20, 8)
    red = torch.tensor([0.8, 0.1, 0.1])
    lightness = rgb_to_lab(red.view(1, 3, 1, 1))[0, 0]
    greys = torch.linspace(0, 1, 1001)
    at = (rgb_to_lab(greys.view(1, 1, -1, 1).expand(1, 3, -1, 1))[0, 0, :, 0] - lightness).abs().argmin()
    saliency = SpectralResidual()(scene((float(greys[at]),) * 3, tuple(red.tolist()), mask))[0, 0]
    assert disc(64, 40, 20, 12).bool()[divmod(int(saliency.argmax()), 64)]


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_an_even_image_has_nothing_salient(value: float) -> None:
    assert not SpectralResidual()(torch.full((1, 3, 64, 64), value)).any()


def test_images_do_not_influence_each_other() -> None:
    detector = SpectralResidual()
    images = torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(3))
    images[1] = 0.5
    # float32: the Fourier transform's order of sums may depend on the batch.
    torch.testing.assert_close(detector(images), torch.cat([detector(i[None]) for i in images]), atol=1e-5, rtol=0)


def test_values_out_of_range_are_clamped() -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)) * 2 - 0.5
    assert torch.equal(SpectralResidual()(images), SpectralResidual()(images.clamp(0, 1)))


def test_half_precision_is_computed_in_float32() -> None:
    images = scene(BACKGROUNDS[0], COLOURS[0], disc(64, 30, 30, 10))
    result = SpectralResidual()(images.half())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, SpectralResidual()(images.half().float()))


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 2**31))
def test_any_size_gives_a_map_of_range_one(height: int, width: int, seed: int) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    maps = SpectralResidual(scales=(64, 16))(images)
    assert maps.shape == (2, 1, height, width)
    assert torch.equal(maps.amax((1, 2, 3)), torch.ones(2)) and torch.equal(maps.amin((1, 2, 3)), torch.zeros(2))


@settings(max_examples=20, deadline=None)
@given(st.integers(-20, 20), st.integers(-20, 20))
def test_the_peak_follows_the_object(down: int, right: int) -> None:
    saliency = SpectralResidual()(scene(BACKGROUNDS[2], COLOURS[1], disc(64, 32 + down, 32 + right, 7)))[0, 0]
    peak = divmod(int(saliency.argmax()), 64)
    assert abs(peak[0] - 32 - down) <= 9 and abs(peak[1] - 32 - right) <= 9


def test_images_that_are_not_finite_are_refused() -> None:
    images = torch.rand(2, 3, 32, 32)
    images[1, 0, 3, 3] = float("nan")
    with pytest.raises(SgoolError, match="image 1 of 2 holds NaN"):
        SpectralResidual()(images)


def test_images_have_three_channels() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(1, 1, 8, 8\)"):
        SpectralResidual()(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("scales", "sigma", "message"),
    [
        ((), 0.04, r"saliency.scales must be .* at least 8 pixels, got \[\]"),
        ((64, 4), 0.04, r"got \[64, 4\]"),
        ((32.5,), 0.04, r"got \[32.5\]"),
        ((64,), 0.0, "saliency.blur_sigma must be a positive fraction .*, got 0.0"),
        ((64,), float("nan"), "got nan"),
        ((2,), -1.0, r"(?s)2 problems.*scales.*blur_sigma"),
    ],
)
def test_wrong_settings(scales: tuple[float, ...], sigma: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpectralResidual(scales, sigma)  # type: ignore[arg-type]


def test_autocast_changes_nothing() -> None:
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = SpectralResidual()(images)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, SpectralResidual()(images))


def natural(seed: int) -> np.ndarray:
    """(64, 64) in whole levels / 255: a surface with the spectrum of photographs, a square of it inverted."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    frequency[0, 0] = 1 / 64
    surface = np.fft.ifft2(np.fft.fft2(generator.standard_normal((64, 64))) / frequency).real
    surface = (surface - surface.min()) / np.ptp(surface)
    y, x = generator.integers(10, 44, 2)
    surface[y : y + 10, x : x + 10] = 1 - surface[y : y + 10, x : x + 10]
    return np.round(surface * 255) / 255


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_agrees_with_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "saliency"):
        pytest.skip("cv2.saliency is in opencv-contrib-python-headless")

    def like_opencv(energy: np.ndarray) -> np.ndarray:
        """OpenCV blurs the magnitude, 5 x 5 with sigma 8, and squares it then; the paper, and we, square first."""
        return cv2.GaussianBlur(np.sqrt(energy), (5, 5), 8) ** 2

    residuals, detectors = [], []
    for seed in range(8):
        image = natural(seed)
        picture = np.repeat((image * 255).round().astype(np.uint8)[..., None], 3, axis=2)
        found, expected = cv2.saliency.StaticSaliencySpectralResidual_create().computeSaliency(picture)
        assert found
        # The reference that our own map equals (above), but for the spectrum's edge, where OpenCV mirrors.
        reference = hou_zhang(image, 1e-3, edge="mirror")
        assert correlation(like_opencv(reference), expected) > 0.9999  # float32 there
        tensor = torch.from_numpy(image)[None, None]
        residuals.append(correlation(like_opencv(spectral_residual(tensor, 0.1)[0, 0].numpy()), expected))
        own = SpectralResidual(scales=(64,), blur_sigma=2 / 64)(tensor.expand(1, 3, 64, 64))
        detectors.append(correlation(own[0, 0].numpy(), expected))
    # The spectrum's edge has its lowest frequencies, so its rule matters: over 40 images the mean is 0.96 (least 0.86).
    # The phase alone, without the residual, has 0.74; the map of the same image moved by 20 pixels has -0.01.
    assert np.mean(residuals) > 0.92
    # And with our order of blur and square: mean 0.72.
    assert np.mean(detectors) > 0.65
