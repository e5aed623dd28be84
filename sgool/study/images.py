"""Copies of images for raters: of a size to look at, without anything that says where they come from."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

MIN_SIDE = 512
"""Smaller images are enlarged by a whole factor to at least this: browsers' own enlargement is blurred."""

MAX_SIDE = 1024
"""Larger images are shrunk to this."""


def save_for_page(source: Path, target: Path) -> None:
    """Write a JPEG of the pixels alone: no name, date, comment, colour profile or EXIF of the source."""
    with Image.open(source) as picture:
        pixels = _fit(picture.convert("RGB"))
    bare = Image.new("RGB", pixels.size)
    bare.paste(pixels)
    # No colour subsampling, hardly any loss: raters compare small things.
    bare.save(target, quality=95, subsampling=0)


def _fit(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    if longest < MIN_SIDE:
        factor = -(-MIN_SIDE // longest)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)
    if longest > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return picture
