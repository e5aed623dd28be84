"""Copies images for raters, in a size to look at and without anything that says where they come from."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

MIN_SIDE = 512
"""Smaller images are enlarged by a whole factor to at least this side, since browsers would blur them."""

MAX_SIDE = 1024
"""Larger images are shrunk to this side."""


def save_for_page(source: Path, target: Path) -> None:
    """Write a JPEG that has only the pixels of the source: no name, date, comment, colour profile or EXIF."""
    with Image.open(source) as picture:
        pixels = _fit(picture.convert("RGB"))
    bare = Image.new("RGB", pixels.size)
    bare.paste(pixels)
    # Raters compare small details: so there is no colour subsampling and hardly any loss.
    bare.save(target, quality=95, subsampling=0)


def _fit(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    if longest < MIN_SIDE:
        factor = -(-MIN_SIDE // longest)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)
    if longest > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return picture
