"""Videos as files: a contact sheet, which keeps every pixel of every frame, and an animation to look at."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    ArrayT = TypeVar("ArrayT", Tensor, NDArray[np.float32], NDArray[np.uint8])

#: Frames a second of an animation. A model's own rate is no part of its pipeline; most are seen well at this one.
FRAME_RATE = 8


def sheet_shape(frames: int) -> tuple[int, int]:
    """Returns the rows and columns of the contact sheet of so many frames, as square as can be."""
    columns = math.ceil(math.sqrt(frames))
    return math.ceil(frames / columns), columns


def place_on_sheet(frame: int, frames: int, height: int, width: int) -> tuple[int, int]:
    """Returns the top and the left, in pixels, of a frame on the contact sheet."""
    row, column = divmod(frame, sheet_shape(frames)[1])
    return row * height, column * width


def contact_sheet(video: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns frames (C, F, H, W) side by side, line by line, (C, rows H, columns W); places that are left are 0."""
    channels, frames, height, width = video.shape
    rows, columns = sheet_shape(frames)
    sheet = np.zeros((channels, rows * height, columns * width), dtype=video.dtype)
    for frame in range(frames):
        top, left = place_on_sheet(frame, frames, height, width)
        sheet[:, top : top + height, left : left + width] = video[:, frame]
    return sheet


def cut_sheet(sheet: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Returns the frames (C, F, H, W) of a contact sheet (C, rows H, columns W).

    Raises:
        ValueError: The sides are no multiples of the numbers of rows and columns.
    """
    rows, columns = sheet_shape(frames)
    if sheet.shape[1] % rows or sheet.shape[2] % columns:
        raise ValueError(
            f"a sheet of {frames} frames has {rows} rows and {columns} columns, got {sheet.shape[1:]} pixels"
        )
    height, width = sheet.shape[1] // rows, sheet.shape[2] // columns
    places = [place_on_sheet(frame, frames, height, width) for frame in range(frames)]
    return np.stack([sheet[:, top : top + height, left : left + width] for top, left in places], axis=1)


def chosen_frames(frames: int, number: int | None) -> list[int]:
    """Returns which of so many frames are looked at: all, or a number of them at equal distances.

    The first and the last are among two or more; one alone is the middle one.
    """
    if number is None or number >= frames:
        return list(range(frames))
    if number == 1:
        return [frames // 2]
    return [round(place * (frames - 1) / (number - 1)) for place in range(number)]


def encode_gif(video: NDArray[np.uint8], texts: Sequence[str] = ()) -> bytes:
    """Encodes frames (3, F, H, W) as an animated GIF that repeats; each frame has the 256 colours that suit it best."""
    pictures = [
        Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))) for frame in video.transpose(1, 0, 2, 3)
    ]
    stream = io.BytesIO()
    more = {"comment": "\n".join(texts).encode()} if texts else {}
    pictures[0].save(
        stream, "GIF", save_all=True, append_images=pictures[1:], duration=1000 // FRAME_RATE, loop=0, **more
    )
    return stream.getvalue()
