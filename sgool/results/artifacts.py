"""Encodes images, saliency maps, histories and latents as files. It takes tensors without importing torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sgool.results.png_text import FRAMES, picture_texts, png_info
from sgool.results.sheets import contact_sheet, encode_gif
from sgool.types import PairRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = Tensor | NDArray[Any]


ARTIFACTS = (
    "initial.png",
    "final.png",
    "initial.gif",
    "final.gif",
    "saliency.png",
    "history.csv",
    "latents.safetensors",
)
"""The files of a pair beside its record; the animations are those of videos."""

_NOT_GENERATED = ("input",)
_OF_THE_START = ("initial", "reconstruction", "0000")


def encode_artifacts(
    record: PairRecord,
    images: Mapping[str, Array],
    saliency_map: Array | None,
    history: Sequence[Mapping[str, float]],
    latents: Mapping[str, Array],
    origin: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Encodes a pair's files in memory, so that bad values are found before a folder is touched.

    Args:
        record: The pair's record.
        images: ``initial`` and ``final``, each (3, H, W), nominally in [0, 1], of a video (3, F, H, W).
        saliency_map: (H, W) or (1, H, W) in [0, 1], of a video (1, F, H, W), or None.
        history: One mapping of name to number per update.
        latents: Any arrays by name.
        origin: As for `encode_pictures`.

    Returns:
        File name -> content.

    Raises:
        ValueError: A shape or name is wrong, or a value is not finite.
    """
    files = encode_pictures(record, images, origin)
    if unknown := sorted(files.keys() - set(ARTIFACTS)):
        raise ValueError(f"images must be named initial and final, got {', '.join(unknown)}")
    if saliency_map is not None:
        image = images.get("final", images.get("initial"))
        size = None if image is None or _is_video(image) else tuple(image.shape[-2:])
        files["saliency.png"] = encode_saliency(_as_picture(saliency_map, 1), size)
    for name, image in images.items():
        if _is_video(image):
            files[f"{name}.gif"] = encode_gif(_to_uint8(to_float32(image)))
    if history:
        files["history.csv"] = encode_history(history)
    if latents:
        files["latents.safetensors"] = encode_latents(latents)
    return files


def encode_pictures(
    record: PairRecord, images: Mapping[str, Array], origin: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """Encodes a pair's images by name as ``NAME.png``; all but a photo that was given say where they come from.

    Args:
        record: The pair's record.
        images: (3, H, W) by name: ``initial``, ``final``, ..., and snapshots by their update, such as ``0005``. A video
            (3, F, H, W) becomes a contact sheet of its frames.
        origin: What the record does not hold, see `sgool.results.png_text.picture_texts`.

    Raises:
        ValueError: A shape is wrong, or a value is not finite.
    """
    files = {}
    for name, image in images.items():
        update = None if name in _OF_THE_START else int(name) if name.isdecimal() else record.best_step
        texts = {} if name in _NOT_GENERATED else picture_texts(record, update, tuple(image.shape[-2:]), origin)
        if _is_video(image):
            texts[FRAMES] = str(image.shape[1])
        files[f"{name}.png"] = encode_image(_as_picture(image, 3), texts)
    return files


def _is_video(image: Array, channels: int = 3) -> bool:
    return bool(image.ndim == 4 and image.shape[0] == channels)


def _as_picture(image: Array, channels: int) -> Array:
    """Returns an image or map as it is, and a video or its maps (C, F, H, W) as a contact sheet."""
    return contact_sheet(to_float32(image)) if _is_video(image, channels) else image


def to_float32(value: Array) -> NDArray[np.float32]:
    """Converts a tensor (any device, any float dtype, with or without gradient) or an array to a float32 array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    return np.asarray(value, dtype=np.float32)


def encode_image(image: Array, texts: Mapping[str, str] | None = None) -> bytes:
    """Encodes an image as an 8-bit RGB PNG; the same image and texts give the same bytes.

    Args:
        image: (3, H, W), nominally in [0, 1]; values outside are clamped.
        texts: What the file says of itself, by the keys of its text chunks.

    Raises:
        ValueError: The shape is another one, or a value is not finite.
    """
    pixels = to_float32(image)
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"an image must be (3, H, W), got {pixels.shape}")
    return _png(_to_uint8(pixels).transpose(1, 2, 0), texts=texts)


def encode_saliency(saliency_map: Array, size: tuple[int, int] | None = None) -> bytes:
    """Encodes a saliency map as an 8-bit grayscale PNG.

    Args:
        saliency_map: (H, W), or with leading axes of length 1, in [0, 1].
        size: (H, W) of the image it belongs to; a map of another size is resized bilinearly.

    Raises:
        ValueError: The shape is another one, or a value is not finite.
    """
    pixels = to_float32(saliency_map)
    shape = pixels.shape
    if pixels.ndim < 2 or any(length != 1 for length in shape[:-2]):
        raise ValueError(f"a saliency map must be (H, W) or (1, H, W), got {shape}")
    return _png(_to_uint8(pixels.reshape(shape[-2:])), size)


def encode_history(history: Sequence[Mapping[str, float]]) -> bytes:
    """Encodes a history as CSV, a row per update.

    Columns come in the order in which they first appear; a value that a row lacks is empty.
    """
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _scalar(value) for name, value in row.items()} for row in history)
    return text.getvalue().encode()


def encode_latents(latents: Mapping[str, Array]) -> bytes:
    """Encodes latents as safetensors in float32, under the names given (``initial``, ``best``, ``last``)."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(to_float32(value)) for name, value in latents.items()})


def _to_uint8(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    if not np.isfinite(pixels).all():
        raise ValueError("an image or saliency map has values that are not finite; record the pair as failed instead")
    return (pixels.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)


def _png(
    pixels: NDArray[np.uint8], size: tuple[int, int] | None = None, texts: Mapping[str, str] | None = None
) -> bytes:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if size is not None and size != (picture.height, picture.width):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=png_info(texts or {}))
    return stream.getvalue()


def _scalar(value: Any) -> Any:
    """Converts scalar tensors and NumPy numbers to Python's, whose text is the shortest that reads back exactly."""
    return value.item() if hasattr(value, "item") else value
