"""Images of a run folder in batches."""

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
    """The images in their order, (B, 3, h, w) each, as many at once as fit and are of one size."""
    for _, group in groupby(map(pixels, paths), key=lambda image: image.shape):
        while images := list(islice(group, _BATCH)):
            yield torch.stack(images)


def pixels(path: Path) -> Tensor:
    """An image (3, h, w) in [0, 1]."""
    return to_tensor(open_photo(path, "image", smallest_side=1))


def path_of(folder: RunFolder, record: PairRecord) -> Path:
    """The pair's final image."""
    return folder.pair_folder(record.method, record.pair_id) / "final.png"


def clip_judges(config: dict[str, Any]) -> dict[str, Any]:
    """Name -> model and ``pretrained`` of the judges that are CLIPs; the configuration's judges are completed."""
    return {name: clip for name, clip in config["models"]["judges"].items() if "type" not in clip}
