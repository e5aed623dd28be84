"""The report's copies of a run's images, and the saliency overlay."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIN_SIDE = 256
"""Smaller images are enlarged by a whole factor to at least this: browsers' own enlargement is blurred."""

MAX_SIDE = 768
"""Larger images are shrunk to this."""

# Dark blue, violet, red, orange, pale yellow: lightness rises with the value, readable without colour vision.
_STOPS = np.array([[12, 8, 60], [92, 22, 130], [205, 50, 88], [250, 145, 40], [255, 246, 170]], dtype=np.float64)


class ImageStore:
    """The folder of a report's images; addresses are relative to the page beside it.

    Args:
        folder: Emptied first: it belongs to the report alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)

    def add(self, source: Path, name: str) -> str | None:
        """Save an image for the page; its address, or None if it is missing or cannot be read."""
        picture = read_image(source)
        return None if picture is None else self._save(for_page(picture), name)

    def add_overlay(self, image: Path, saliency: Path, name: str) -> str | None:
        """Save a saliency map laid over its image; its address, or None if one of them cannot be read."""
        picture, saliency_map = read_image(image), read_image(saliency)
        if picture is None or saliency_map is None:
            return None
        return self._save(overlay(for_page(picture), saliency_map), name)

    def _save(self, picture: Image.Image, name: str) -> str:
        # JPEG without colour subsampling: a fifth of PNG's size for enlarged or photographic images; the originals stay
        # in pairs/.
        path = self.folder / f"{name}.jpg"
        picture.save(path, quality=92, subsampling=0)
        return quote(f"{self.folder.name}/{path.name}")


def for_page(picture: Image.Image) -> Image.Image:
    """RGB, with its longer side between ``MIN_SIDE`` and ``MAX_SIDE``."""
    picture = picture.convert("RGB")
    longest = max(picture.size)
    if longest < MIN_SIDE:
        factor = -(-MIN_SIDE // longest)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)
    if longest > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return picture


def read_image(path: Path) -> Image.Image | None:
    """The image, wholly decoded; None if it is missing, truncated or no image (the page then says so in its place)."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.copy()
    except (OSError, ValueError, SyntaxError):  # Pillow raises SyntaxError for a broken PNG
        return None


def overlay(image: Image.Image, saliency_map: Image.Image) -> Image.Image:
    """An image lit up and tinted where its saliency map is high, dim elsewhere.

    Args:
        image: RGB.
        saliency_map: Grayscale, of any size.

    Returns:
        RGB, of the image's size.
    """
    pixels = np.asarray(image, dtype=np.float64)
    scaled = saliency_map.convert("L").resize(image.size, Image.Resampling.BICUBIC)
    values = np.asarray(scaled, dtype=np.float64)[..., None] / 255.0
    # Chosen by eye on bright and dark scenes: opaque heat hides what people look at, so light does most of the work.
    lit = pixels * (0.35 + 0.65 * values)
    opacity = 0.2 + 0.3 * values
    blended = lit * (1.0 - opacity) + heat(values[..., 0]) * opacity
    return Image.fromarray(blended.round().clip(0, 255).astype(np.uint8))


def heat(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours (..., 3) in [0, 255] for values (...) in [0, 1]."""
    places = np.linspace(0.0, 1.0, len(_STOPS))
    return np.stack([np.interp(values, places, _STOPS[:, channel]) for channel in range(3)], axis=-1)
