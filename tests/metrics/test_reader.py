from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.metrics import SceneReader

NOUNS, TINTS, BACKGROUNDS = ["cat", "dog", "tree"], ["natural", "red"], ["white", "cyan"]


@pytest.fixture
def reader() -> SceneReader:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = SceneReader(NOUNS, TINTS, BACKGROUNDS, width=8)
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.uniform_(-0.5, 0.5)
        torch.nn.init.normal_(made.heat.weight)
    return made.eval()


class _Painted(SceneReader):
    """A reader whose heads' logits are given."""

    def __init__(self, peaks: dict[tuple[int, int, int], float], tint: Tensor | None = None) -> None:
        super().__init__(NOUNS, TINTS, BACKGROUNDS, width=8)
        self._heat = torch.full((1, 3, 16, 16), -8.0)
        for place, value in peaks.items():
            self._heat[(0, *place)] = value
        self._tint = torch.zeros(1, 2, 16, 16) if tint is None else tint

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._heat, self._tint, torch.tensor([[0.0, 1.0]])


def seen(peaks: dict[tuple[int, int, int], float], **kwargs: Any) -> list[tuple[str, float, float]]:
    (reading,) = _Painted(peaks).read(torch.zeros(1, 3, 64, 64), **kwargs)
    return [(d.noun, d.row, d.column) for d in reading.detections]


def test_peaks_become_objects_from_the_most_confident() -> None:
    assert seen({(0, 3, 4): 1.0, (2, 10, 12): 2.0}) == [("tree", 42.0, 50.0), ("cat", 14.0, 18.0)]


def test_neighbours_of_a_peak_are_no_objects() -> None:
    hill = {(0, 8 + i, 8 + j): 3.0 - abs(i) - abs(j) for i in range(-2, 3) for j in range(-2, 3)}
    assert seen(hill) == [("cat", 34.0, 34.0)]


def test_two_nouns_at_one_place_are_the_more_confident_one() -> None:
    assert seen({(0, 5, 5): 1.0, (1, 6, 6): 2.0}) == [("dog", 26.0, 26.0)]
    assert len(seen({(0, 5, 5): 1.0, (1, 5, 8): 2.0})) == 2  # three cells apart: two objects


def test_equal_neighbours_are_one_object() -> None:
    """A sigmoid saturates at a logit of 17: two cells of exactly 1.0 both are peaks of the heat map."""
    assert seen({(0, 5, 5): 30.0, (0, 5, 6): 30.0, (1, 5, 5): 30.0}) == [("cat", 22.0, 22.0)]


def test_threshold() -> None:
    peaks = {(0, 3, 3): 0.0, (1, 12, 12): -1.0}  # confidences 0.5 and 0.27
    assert [noun for noun, *_ in seen(peaks)] == ["cat"]
    assert [noun for noun, *_ in seen(peaks, threshold=0.2)] == ["cat", "dog"]
    assert seen(peaks, threshold=0.6) == []


def test_tint_and_background() -> None:
    tint = torch.zeros(1, 2, 16, 16)
    tint[0, 1, 12, 12] = 1
    (reading,) = _Painted({(0, 3, 3): 1.0, (1, 12, 12): 2.0}, tint).read(torch.zeros(1, 3, 64, 64))
    assert [(d.noun, d.tint) for d in reading.detections] == [("dog", "red"), ("cat", "natural")]
    assert reading.background == "cyan"
    assert reading.detections[0].score == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (36, 36)])
def test_shapes_of_the_heads(reader: SceneReader, size: tuple[int, int]) -> None:
    heat, tint, background = reader(torch.rand(2, 3, *size))
    assert heat.shape == (2, 3, size[0] // 4, size[1] // 4)
    assert tint.shape == (2, 2, size[0] // 4, size[1] // 4) and background.shape == (2, 2)


def test_save_and_load(reader: SceneReader, tmp_path: Path) -> None:
    reader.save_pretrained(tmp_path / "reader")
    loaded = SceneReader.from_pretrained(tmp_path / "reader")
    assert (loaded.nouns, loaded.tints, loaded.backgrounds) == (NOUNS, TINTS, BACKGROUNDS)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for got, expected in zip(loaded(images), reader(images), strict=True):
            # Saved with float16's 11 bits; some ten layers.
            torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)
    # What was rounded once stays: saving again gives the same file.
    loaded.save_pretrained(tmp_path / "again")
    files = [tmp_path / folder / "model.safetensors" for folder in ("reader", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_images_of_a_batch_are_read_alone(reader: SceneReader) -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    together = reader.read(images, threshold=0.01)
    assert any(reading.detections for reading in together)
    for image, reading in zip(images, together, strict=True):
        (alone,) = reader.read(image[None], threshold=0.01)
        assert [(d.noun, d.row, d.column) for d in alone.detections] == [
            (d.noun, d.row, d.column) for d in reading.detections
        ]


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        SgoolError, match=r"expected config\.json, model\.safetensors in .*check `models\.scene_reader`"
    ):
        SceneReader.from_pretrained(tmp_path)
