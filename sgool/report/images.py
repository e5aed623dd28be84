"""The report's pictures: one small file per result, with its frames side by side."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 256
"""Longer side of a frame in reports of more than ``MANY`` results."""

LARGE_SIDE = 512
"""Longer side of a frame in reports of at most ``MANY`` results."""

MANY = 1000
"""Results above which frames are smaller."""

MOST_SNAPSHOTS = 14
"""The most frames between the first and the last image; of more snapshots, some at equal distances are taken."""

_WIDEST = 16383  # pixels: the widest WebP file

# Dark blue, violet, red, orange, pale yellow: lightness rises with the value, readable without colour vision.
_STOPS = np.array([[12, 8, 60], [92, 22, 130], [205, 50, 88], [250, 145, 40], [255, 246, 170]], dtype=np.float64)


@dataclass(frozen=True)
class Strip:
    """The frames of a result in one file.

    Attributes:
        file: The name of the file, or None if there is no image at all.
        frames: What each frame shows, in the order of the trajectory; the last one is the final image.
        overlay: Whether one more frame shows the saliency map over the final image.
        aspect: A frame's width by its height.
        missing: Texts on files that are missing or cannot be read.
        size: Width and height of the final image's file, in pixels; None: there is none.
        animation: The name of a video's animation, beside the strip of its contact sheets; None: it is no video.
    """

    file: str | None = None
    frames: tuple[str, ...] = ()
    overlay: bool = False
    aspect: float = 1.0
    missing: tuple[str, ...] = ()
    size: tuple[int, int] | None = field(default=None, compare=False)
    animation: str | None = None


def make_strip(folder: Path, target: Path, side: int, *, failed: bool = False) -> Strip:
    """Save the images of a pair's folder as one strip.

    Args:
        folder: The pair's folder, with ``initial.png``, ``final.png``, ``final.gif``, ``saliency.png`` and
            ``snapshots/UPDATE.png``; each may be missing.
        target: The WebP file to write; an animation gets the same name, with the ending .gif.
        side: Longest side of a frame.
        failed: Whether the pair failed; then it need not have a final image.
    """
    first, final = read_image(folder / "initial.png"), read_image(folder / "final.png")
    missing: tuple[str, ...] = () if failed or final else (_explain(folder / "final.png"),)
    named = [("first image", first), *_snapshots(folder / "snapshots"), ("final image", final)]
    pictures = [(name, picture) for name, picture in named if picture is not None]
    if not pictures:
        return Strip(missing=missing)
    if len(pictures) > 1 and first and final and first.size == final.size and first.tobytes() == final.tobytes():
        pictures = pictures[1:]  # vanilla: nothing moved
    saliency = read_image(folder / "saliency.png")
    if saliency is None and (folder / "saliency.png").exists():
        missing += (_explain(folder / "saliency.png"),)
    size = frame_size(pictures[-1][1].size, side)
    frames = [_fit(picture, size) for _, picture in pictures]
    if saliency is not None and final is not None:
        frames.append(overlay(frames[-1], saliency))
    _save(frames, target)
    overlaid, names = len(frames) > len(pictures), tuple(name for name, _ in pictures)
    animation = _copied(folder / "final.gif", target.with_suffix(".gif"))
    whole = final.size if final else None
    return Strip(target.name, names, overlaid, round(size[0] / size[1], 4), missing, whole, animation)


def frame_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return a frame's size: small images are enlarged by a whole factor to at least ``SIDE``, large ones shrunk."""
    longest = max(size)
    factor = -(-SIDE // longest) if longest < SIDE else min(1.0, side / longest)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def read_image(path: Path) -> Image.Image | None:
    """Read and decode an image in RGB; None if it is missing, truncated or no image (the page then says so)."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, EOFError):  # SyntaxError: a broken PNG
        return None


def overlay(image: Image.Image, saliency_map: Image.Image) -> Image.Image:
    """Light up and tint an image where its saliency map is high, and dim it elsewhere.

    Args:
        image: An RGB image.
        saliency_map: A grayscale image of any size.

    Returns:
        An RGB image of the first one's size.
    """
    scaled = saliency_map.convert("L").resize(image.size, Image.Resampling.BICUBIC)
    levels = np.asarray(scaled)
    factor, tint = _tints()
    blended = np.asarray(image, dtype=np.float32) * factor[levels] + tint[levels]  # within 0 and 255
    return Image.fromarray((blended + np.float32(0.5)).astype(np.uint8))


@cache
def _tints() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return, for a map's 256 levels, the factor of the image (256, 1) and the colour that is added (256, 3)."""
    values = np.arange(256)[:, None] / 255.0
    # Chosen by eye on bright and dark scenes: opaque heat hides what people look at, so light does most of the work.
    light, opacity = 0.35 + 0.65 * values, 0.2 + 0.3 * values
    factor, tint = light * (1.0 - opacity), heat(values[:, 0]) * opacity
    return factor.astype(np.float32), tint.astype(np.float32)


def heat(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the colours (..., 3) in [0, 255] of values (...) in [0, 1]."""
    places = np.linspace(0.0, 1.0, len(_STOPS))
    return np.stack([np.interp(values, places, _STOPS[:, channel]) for channel in range(3)], axis=-1)


def _snapshots(folder: Path) -> list[tuple[str, Image.Image | None]]:
    """Read at most ``MOST_SNAPSHOTS`` images of the trajectory, each with what it shows."""
    try:
        files = sorted(
            (int(path.stem), path) for path in folder.glob("*.png") if path.stem.isascii() and path.stem.isdigit()
        )
    except OSError:
        return []
    if len(files) > MOST_SNAPSHOTS:
        files = [files[round(at)] for at in np.linspace(0, len(files) - 1, MOST_SNAPSHOTS)]
    return [(f"update {update}", read_image(path)) for update, path in files]


def _fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _save(frames: Sequence[Image.Image], target: Path) -> None:
    width, height = frames[0].size
    if width * len(frames) > _WIDEST:
        width, height = _WIDEST // len(frames), max(1, height * (_WIDEST // len(frames)) // width)
        frames = [_fit(frame, (width, height)) for frame in frames]
    strip = Image.new("RGB", (width * len(frames), height))
    for position, frame in enumerate(frames):
        strip.paste(frame, (position * width, 0))
    # WebP: a third of JPEG's size. Method 2 takes half the time of the default for 4 % more bytes.
    strip.save(target, "WEBP", quality=85, method=2)


def _copied(source: Path, target: Path) -> str | None:
    """Copies an animation as it is; returns its name, or None if there is none that can be read."""
    if read_image(source) is None:
        return None
    shutil.copyfile(source, target)
    return target.name


def _explain(path: Path) -> str:
    return f"{path.name} {'cannot be read' if path.exists() else 'is missing'}"
