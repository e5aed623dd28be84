"""Checkpoints of batches under way: small files of plain values and tensors, each with a description of its origin."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.types import PromptSeed

#: The key of a checkpoint under which its origin is described.
ORIGIN = "origin"
_FORMAT = 1


def eight_bit(images: Tensor) -> Tensor:
    """Rounds images or maps, nominally in [0, 1], to the values of an 8-bit PNG. NaN stays NaN.

    The result has dtype float64 if the input has, else float32. What a run keeps of an image is rounded at once: so a
    fit that continues from its checkpoint returns what an undisturbed fit does, and judges see the pixels that the run
    folder holds.
    """
    wide = images if images.dtype == torch.float64 else images.float()
    return (wide.clamp(0, 1) * 255).round() / 255


def pack_image(image: Tensor) -> dict[str, Any]:
    """Packs an `eight_bit` image (1 or 3, H, W), or a video (1 or 3, F, H, W), as PNG; what is not finite as it is."""
    if not bool(image.isfinite().all()):
        return {"raw": image.detach().cpu().clone()}
    frames = {"frames": image.shape[1]} if image.ndim == 4 else {}  # one below the other
    own = image.flatten(1, 2) if frames else image
    pixels = (own.detach().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)).save(stream, "PNG")
    # PNG's bytes are packed as a tensor: torch.save would store them as text, half as long again.
    png = torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
    return {"png": png, "dtype": _name(image.dtype), **frames}


def unpack_image(packed: Mapping[str, Any]) -> Tensor:
    """Returns the packed image (1 or 3, H, W) or video (1 or 3, F, H, W) on the CPU, equal to the bit."""
    if "raw" in packed:
        raw: Tensor = packed["raw"]
        return raw
    pixels = np.array(Image.open(io.BytesIO(packed["png"].numpy().tobytes())))
    channels_last = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None])
    image = channels_last.permute(2, 0, 1).contiguous().to(getattr(torch, packed["dtype"])) / 255
    return image.unflatten(1, (packed["frames"], -1)) if "frames" in packed else image


def origin(method: str, pairs: Sequence[PromptSeed], settings: Any) -> dict[str, Any]:
    """Describes what a checkpoint must have in common with the fit that continues from it.

    Args:
        method: The method's name.
        pairs: The batch's pairs, in their order.
        settings: What else decides on the result: numbers, texts, tensors, containers and objects of these.
    """
    text = json.dumps(_described(settings), sort_keys=True)
    return {
        "format": _FORMAT,
        "method": method,
        "pairs": [pair.pair_id for pair in pairs],
        "settings": hashlib.sha256(text.encode()).hexdigest(),
    }


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint of plain values and tensors, whole or not at all.

    Raises:
        SgoolError: The file cannot be written.
    """
    stream = io.BytesIO()
    torch.save(dict(content), stream)
    with explain_os_errors(f"write the checkpoint {path}", "Free space or mend its permissions, then start again."):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, stream.getvalue())


def read_checkpoint(
    path: Path | None, expected: Mapping[str, Any], note: Callable[[str], None] | None = None
) -> dict[str, Any] | None:
    """Reads a checkpoint that has the expected origin.

    Args:
        path: The checkpoint's file, which may not exist; None: there is none.
        expected: What `origin` returns for the fit that is to continue.
        note: Called with a sentence if the file is damaged or of another origin.

    Returns:
        The checkpoint's content, or None if there is no file that can be used.
    """
    if path is None or not path.is_file():
        return None
    try:
        content = _read(path)
        found = content[ORIGIN]
        different = [key for key in expected if found.get(key) != expected[key]]
    # torch.load raises exceptions of many types, depending on what is wrong with a file.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problem = f"cannot be read, it is cut off or damaged ({reason})"
    else:
        if not different:
            return content
        problem = f"is of other {', '.join(different)}"
    if note is not None:
        note(f"the checkpoint {path} {problem}: the fit starts anew")
    return None


def _read(path: Path) -> dict[str, Any]:
    # The checksums of the zip archive show flipped bits, which torch.load does not look for.
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"wrong checksum of {broken}")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def _described(value: Any) -> Any:
    """Describes a value in JSON's types, in the same way in every process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.dtype):
        return _name(value)
    if isinstance(value, Tensor):
        content = value.detach().cpu().double().contiguous().numpy().tobytes()
        return [_name(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest()]
    if isinstance(value, Mapping):
        return {str(key): _described(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(entry) for entry in value]
    kind = value if hasattr(value, "__qualname__") else type(value)  # functions and classes have a name of their own
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind is value or isinstance(value, nn.Module) or not hasattr(value, "__dict__"):
        return name
    return [name, {key: _described(entry) for key, entry in vars(value).items() if not key.startswith("_")}]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
