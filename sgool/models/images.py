"""Photos from files: upright, RGB, brought to the model's size. Imports nothing heavy before pixels become a tensor."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from sgool.config.paths import asset_path
from sgool.errors import SgoolError

if TYPE_CHECKING:
    from torch import Tensor

FITS = ("crop", "squash", "pad")
#: Pixels; below this a side holds less than two of an autoencoder's latents.
SMALLEST_SIDE = 16
_FORMATS = ("JPEG", "PNG", "WEBP")
#: What Pillow raises for files that are cut off or broken, beside its own errors.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error)


def open_photo(path: str | Path, key: str = "IMAGE", smallest_side: int = SMALLEST_SIDE) -> Image.Image:
    """A PNG, JPEG or WebP file as 8-bit RGB: upright by its EXIF mark, grey made RGB, transparency on white.

    Of an animation the first frame counts; colour profiles are not applied.

    Args:
        path: The file; "emoji_world/references/panda.png" is an embedded one.
        key: What the messages call it: the command's argument, or a key of the configuration.
        smallest_side: Fewest pixels of a side.

    Raises:
        SgoolError: Missing, empty, no image of these formats, damaged, too small, or with so many pixels that Pillow
            takes it for an attack.
    """
    file = Path(asset_path(str(path))).expanduser()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else f"does not exist (relative paths start at {Path.cwd()})"
        raise SgoolError(f"{key}: expected a PNG, JPEG or WebP file, but {str(path)!r} {what}")
    try:
        if not file.stat().st_size:
            raise SgoolError(f"{key}: {str(path)!r} is empty (0 bytes)")
        with warnings.catch_warnings():
            # Pillow warns at half the size at which it refuses: a large photo is not the user's mistake.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _read(file, key, smallest_side)
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise SgoolError(f"{key}: {str(path)!r} has more than {most} pixels; scale it down first") from error
    except Image.UnidentifiedImageError as error:
        raise SgoolError(
            f"{key}: {str(path)!r} is not a PNG, JPEG or WebP image; convert it to one of these"
        ) from error
    except _BROKEN as error:
        raise SgoolError(f"{key}: cannot read {str(path)!r}, it is damaged or cut off: {error}") from error


def fit_photo(photo: Image.Image, height: int, width: int, fit: str = "crop") -> Image.Image:
    """The photo at the model's size.

    Args:
        photo: RGB.
        height: In pixels.
        width: In pixels.
        fit: ``crop``: the largest centred part of these proportions; ``squash``: all of it, its proportions lost;
            ``pad``: all of it, in its proportions, centred on white.

    Raises:
        SgoolError: Unknown ``fit``.
    """
    check_fit(fit)
    if fit == "crop":
        return ImageOps.fit(photo, (width, height), Image.Resampling.LANCZOS)
    if fit == "squash":
        return photo.resize((width, height), Image.Resampling.LANCZOS)
    scale = min(width / photo.width, height / photo.height)
    # At least one pixel: a strip may be a thousand times as long as it is wide.
    inner = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    padded = Image.new("RGB", (width, height), "white")
    padded.paste(photo.resize(inner, Image.Resampling.LANCZOS), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return padded


def check_fit(fit: str) -> None:
    """Raises SgoolError unless ``fit`` is one of `FITS`."""
    if fit not in FITS:
        raise SgoolError(f"--fit: expected {', '.join(FITS[:-1])} or {FITS[-1]}, got {fit!r}")


def to_tensor(photo: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1], float32."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1).float() / 255


def _read(file: Path, key: str, smallest_side: int) -> Image.Image:
    with Image.open(file, formats=_FORMATS) as opened:
        if min(opened.size) < smallest_side:
            raise SgoolError(
                f"{key}: expected at least {smallest_side} pixels a side, got {opened.width} x {opened.height} in "
                f"{str(file)!r}"
            )
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode not in ("P", "PA", "LA", "La", "RGBA", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, scaled; Pillow's own conversion would cut it off at 255."""
    import numpy as np

    return Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
