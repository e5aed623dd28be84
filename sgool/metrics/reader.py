"""The scene reader: a small detector that says which objects, colours and backgrounds an image shows.

Object centres are peaks of one heat map per noun, as in CenterNet (Zhou et al. 2019, "Objects as Points"). Counts and
relations follow from the detections' geometry, as in GenEval (Ghosh et al. 2023).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.checkpoints import load_strictly, read_state

_STRIDE = 4
#: Cells around a peak in which no other object is read.
_REACH = 2


@dataclass(frozen=True)
class Detection:
    """One detected object.

    Attributes:
        noun: Name of the object.
        tint: Name of its tint; "natural" means the object's own colours.
        row: Row of its centre in pixels.
        column: Column of its centre in pixels.
        score: Confidence in [0, 1].
    """

    noun: str
    tint: str
    row: float
    column: float
    score: float


@dataclass(frozen=True)
class SceneReading:
    """The reader's result for an image.

    Attributes:
        detections: From the most to the least confident.
        background: The background's name.
        width: Of the image, in pixels; None: unknown, so that no statement about a place can be checked.
    """

    detections: tuple[Detection, ...]
    background: str
    width: int | None = None


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(hidden)))


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class SceneReader(nn.Module):
    """The reader's network: residual, with context from stride 8 added at stride 4, and with three heads.

    Args:
        nouns: Names of the known objects.
        tints: Names of the tints; the first means "the object's own colours".
        backgrounds: Names of the backgrounds.
        width: Number of channels at stride 4.
    """

    def __init__(self, nouns: list[str], tints: list[str], backgrounds: list[str], width: int = 64) -> None:
        super().__init__()
        self.nouns, self.tints, self.backgrounds = list(nouns), list(tints), list(backgrounds)
        self.width = width
        self.stem = nn.Sequential(_down(3, width // 2), _down(width // 2, width), _Block(width), _Block(width))
        self.context = nn.Sequential(_down(width, width * 2), _Block(width * 2), _Block(width * 2))
        self.lateral = nn.Conv2d(width * 2, width, 1)
        self.merge = _Block(width)
        self.heat = nn.Conv2d(width, len(nouns), 1)
        self.tint = nn.Conv2d(width, len(tints), 1)
        self.background = nn.Linear(width, len(backgrounds))
        assert self.heat.bias is not None
        nn.init.constant_(self.heat.bias, -4.0)  # positives are rare, so start from p = 0.02

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits for images (B, 3, H, W) in [0, 1]: nouns and tints (B, ., H/4, W/4), background (B, .)."""
        features = self.stem(images * 2 - 1)
        context = self.lateral(self.context(features))
        features = self.merge(features + F.interpolate(context, size=features.shape[-2:], mode="nearest"))
        return self.heat(features), self.tint(features), self.background(features.mean(dim=(2, 3)))

    @torch.no_grad()
    def read(self, images: Tensor, threshold: float = 0.3) -> list[SceneReading]:
        """Reads what each image (B, 3, H, W) in [0, 1] shows; ``threshold`` is the least confidence of a detection."""
        heat, tint, background = self(images)
        heat = heat.float().sigmoid()
        strongest = heat.amax(dim=1, keepdim=True)
        # Peaks among 5x5 cells of all nouns: two nouns at one position are one object, that of the higher confidence.
        around = F.max_pool2d(strongest, 2 * _REACH + 1, stride=1, padding=_REACH)
        peaks = (heat == strongest) & (around == strongest)
        peaks &= heat >= threshold
        return [
            SceneReading(
                self._detections(heat[i], tint[i], peaks[i]),
                self.backgrounds[int(background[i].argmax())],
                images.shape[-1],
            )
            for i in range(len(images))
        ]

    def _detections(self, heat: Tensor, tint: Tensor, peaks: Tensor) -> tuple[Detection, ...]:
        found = [
            Detection(
                noun=self.nouns[noun],
                tint=self.tints[int(tint[:, row, column].argmax())],
                row=(row + 0.5) * _STRIDE,
                column=(column + 0.5) * _STRIDE,
                score=float(heat[noun, row, column]),
            )
            for noun, row, column in peaks.nonzero().tolist()
        ]
        kept: list[Detection] = []
        for new in sorted(found, key=lambda d: -d.score):
            # Neighbours of exactly the same confidence (a saturated sigmoid) are all peaks, but one object.
            reach = _REACH * _STRIDE
            if all(max(abs(new.row - old.row), abs(new.column - old.column)) > reach for old in kept):
                kept.append(new)
        return tuple(kept)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the reader to a folder, as config.json and model.safetensors (float16)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"nouns": self.nouns, "tints": self.tints, "backgrounds": self.backgrounds, "width": self.width}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SceneReader:
        """Loads a frozen reader in float32.

        Raises:
            SgoolError: The folder lacks ``config.json`` or ``model.safetensors``.
        """
        folder = Path(folder)
        missing = [n for n in ("config.json", "model.safetensors") if not (folder / n).is_file()]
        if missing:
            raise SgoolError(f"scene reader: expected {', '.join(missing)} in {folder}; check `models.scene_reader`")
        reader = cls(**json.loads((folder / "config.json").read_text()))
        load_strictly(reader, read_state(folder / "model.safetensors"), folder / "model.safetensors")
        return reader.float().eval().requires_grad_(False)
