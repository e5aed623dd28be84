"""Reads images of a run folder in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgool.models.images import open_photo, to_tensor
from sgool.results import RunFolder
from sgool.types import PairRecord

_BATCH = 32


def batches(paths: Sequence[Path]) -> Iterator[Tensor]:
    """Reads images in their order, as batches (B, 3, h, w) of at most 32 images of one size."""
    for _, group in groupby(map(pixels, paths), key=lambda image: image.shape):
        while images := list(islice(group, _BATCH)):
            yield torch.stack(images)


def pixels(path: Path) -> Tensor:
    """Reads an image (3, h, w) in [0, 1]."""
    return to_tensor(open_photo(path, "image", smallest_side=1))


def path_of(folder: RunFolder, record: PairRecord) -> Path:
    """Returns the path of a pair's final image."""
    return folder.pair_folder(record.method, record.pair_id) / "final.png"


def clip_judges(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the judges that are CLIPs: name -> ``model`` and ``pretrained``, from a completed configuration."""
    return {name: clip for name, clip in config["models"]["judges"].items() if "type" not in clip}
