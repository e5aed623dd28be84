"""Reads photos from files: upright, RGB, brought to the model's size; torch is only imported to make a tensor."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from sgool.config.paths import asset_path
from sgool.errors import SgoolError
from sgool.models.formats import READABLE, formats, note_on_frames, to_rgb, unknown_format

if TYPE_CHECKING:
    from torch import Tensor

FITS = ("crop", "squash", "pad")
#: Fewest pixels of a side; a smaller side would have less than two of an autoencoder's latents.
SMALLEST_SIDE = 16
#: Errors that Pillow raises for files that are cut off or broken, beside its own classes of errors.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error)


def open_photo(
    path: str | Path,
    key: str = "IMAGE",
    smallest_side: int = SMALLEST_SIDE,
    on_note: Callable[[str], None] | None = None,
) -> Image.Image:
    """Reads an image file as 8-bit RGB, in any format that Pillow or an installed plug-in of it reads.

    The image is turned upright by its EXIF mark, `sgool.models.formats.to_rgb` converts its pixels, and the first frame
    of an animation is used.

    Args:
        path: The file; "emoji_world/references/panda.png" is an embedded one.
        key: Name of the file in messages: the command's argument, or a key of the configuration.
        smallest_side: Fewest pixels of a side.
        on_note: Told in a sentence what of the file is left out: all frames but the first.

    Raises:
        SgoolError: The file is missing, empty, no image of these formats, damaged, of a kind of pixels without a
            meaning, too small, or has so many pixels that Pillow takes it for an attack.
    """
    file = Path(asset_path(str(path))).expanduser()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else f"does not exist (relative paths start at {Path.cwd()})"
        raise SgoolError(f"{key}: expected an image file, but {str(path)!r} {what}")
    try:
        if not file.stat().st_size:
            raise SgoolError(f"{key}: {str(path)!r} is empty (0 bytes); expected an image ({READABLE})")
        with warnings.catch_warnings():
            # Pillow warns at half the size at which it refuses: a large photo is not the user's mistake. What is odd
            # in a file's EXIF does not concern its pixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", module=r"PIL\..*")
            image, note = _read(file, key, smallest_side)
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise SgoolError(f"{key}: {str(path)!r} has more than {most} pixels; scale it down first") from error
    except Image.UnidentifiedImageError as error:
        raise SgoolError(f"{key}: {str(path)!r} {unknown_format(file)}") from error
    except _BROKEN as error:
        raise SgoolError(f"{key}: cannot read {str(path)!r}, it is damaged or cut off: {error}") from error
    if note and on_note is not None:
        on_note(f"{str(path)!r} {note}")
    return image


def fit_photo(photo: Image.Image, height: int, width: int, fit: str = "crop") -> Image.Image:
    """Brings a photo to the model's size.

    Args:
        photo: The photo, in RGB.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        fit: ``crop`` keeps the largest centred part with these proportions; ``squash`` keeps the whole photo and
            changes its proportions; ``pad`` keeps both, and centres the photo on white.

    Raises:
        SgoolError: ``fit`` is unknown.
    """
    check_fit(fit)
    if fit == "crop":
        return ImageOps.fit(photo, (width, height), Image.Resampling.LANCZOS)
    if fit == "squash":
        return photo.resize((width, height), Image.Resampling.LANCZOS)
    scale = min(width / photo.width, height / photo.height)
    # At least one pixel, since a photo may be a thousand times as long as it is wide.
    inner = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    padded = Image.new("RGB", (width, height), "white")
    padded.paste(photo.resize(inner, Image.Resampling.LANCZOS), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return padded


def check_fit(fit: str) -> None:
    """Raises a SgoolError unless ``fit`` is one of `FITS`."""
    if fit not in FITS:
        raise SgoolError(f"--fit: expected {', '.join(FITS[:-1])} or {FITS[-1]}, got {fit!r}")


def to_tensor(photo: Image.Image) -> Tensor:
    """Converts a photo to a float32 tensor (3, H, W) in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1).float() / 255


def _read(file: Path, key: str, smallest_side: int) -> tuple[Image.Image, str]:
    """The image, and a sentence on what is left out."""
    with Image.open(file, formats=formats()) as opened:
        if min(opened.size) < smallest_side:
            raise SgoolError(
                f"{key}: expected at least {smallest_side} pixels a side, got {opened.width} x {opened.height} in "
                f"{str(file)!r}"
            )
        note = note_on_frames(opened)
        try:
            opened.load()
        except OSError as error:
            if "not available" not in str(error):  # a decoder that this Pillow was built without
                raise
            raise SgoolError(
                f"{key}: {str(file)!r} is packed in a way that this Pillow cannot unpack ({error}); save it as PNG"
            ) from error
        image = ImageOps.exif_transpose(opened)
    try:
        return to_rgb(image), note
    except ValueError as error:
        raise SgoolError(f"{key}: cannot use {str(file)!r}: {error}") from error
