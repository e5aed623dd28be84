"""Strips of frames, and the overlay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgool.report.images import MOST_SNAPSHOTS, SIDE, Strip, frame_size, make_strip, overlay
from sgool.results.artifacts import encode_image, encode_saliency
from tests.fake_run import blob, flat


def put(folder: Path, snapshots: int = 0, saliency: bool = False) -> Path:
    """A pair's folder of grey images: black first, white last."""
    (folder / "snapshots").mkdir(parents=True)
    (folder / "initial.png").write_bytes(encode_image(flat(0)))
    (folder / "final.png").write_bytes(encode_image(flat(20)))
    for update in range(snapshots):
        (folder / "snapshots" / f"{update:04d}.png").write_bytes(encode_image(flat(update % 20)))
    if saliency:
        (folder / "saliency.png").write_bytes(encode_saliency(blob()))
    return folder


def greys(path: Path) -> list[int]:
    """The middle of every frame."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    return [int(pixels[SIDE // 2, SIDE * k + SIDE // 2]) for k in range(pixels.shape[1] // SIDE)]


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((64, 64), 256, (256, 256)),
        ((64, 64), 512, (256, 256)),
        ((100, 50), 256, (300, 150)),
        ((256, 256), 256, (256, 256)),
        ((1536, 1024), 512, (512, 341)),
        ((512, 512), 256, (256, 256)),
        ((1, 3000), 256, (1, 256)),
    ],
)
def test_sizes(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    assert frame_size(size, side) == expected


def test_frames_stand_in_the_order_of_the_trajectory(tmp_path: Path) -> None:
    strip = make_strip(put(tmp_path / "pair", snapshots=3), tmp_path / "s.webp", 256)
    assert strip == Strip("s.webp", ("first image", "update 0", "update 1", "update 2", "final image"), False, 1.0, ())
    # WebP is lossy: a flat grey may be off by two
    assert greys(tmp_path / "s.webp") == pytest.approx([0, 0, 255 / 20, 2 * 255 / 20, 255], abs=2)


def test_of_many_snapshots_some(tmp_path: Path) -> None:
    strip = make_strip(put(tmp_path / "pair", snapshots=300), tmp_path / "s.webp", 256)
    assert len(strip.frames) == MOST_SNAPSHOTS + 2
    assert (strip.frames[1], strip.frames[-2]) == ("update 0", "update 299")
    with Image.open(tmp_path / "s.webp") as picture:
        assert picture.width == 256 * len(strip.frames)


def test_many_large_frames_fit_into_one_file(tmp_path: Path) -> None:
    folder = put(tmp_path / "pair", snapshots=MOST_SNAPSHOTS)
    Image.new("RGB", (2000, 1000)).save(folder / "final.png")
    make_strip(folder, tmp_path / "s.webp", 2000)
    with Image.open(tmp_path / "s.webp") as picture:  # WebP's limit is 16383 pixels
        assert picture.size == (1023 * 16, 511)


def test_the_overlay_is_a_frame_more(tmp_path: Path) -> None:
    strip = make_strip(put(tmp_path / "pair", saliency=True), tmp_path / "s.webp", 256)
    assert (strip.overlay, len(strip.frames), len(greys(tmp_path / "s.webp"))) == (True, 2, 3)


def test_an_image_that_never_moved_is_one_frame(tmp_path: Path) -> None:
    folder = put(tmp_path / "pair")
    (folder / "final.png").write_bytes((folder / "initial.png").read_bytes())
    assert make_strip(folder, tmp_path / "s.webp", 256).frames == ("final image",)


class TestWhatIsMissing:
    def test_the_final_image(self, tmp_path: Path) -> None:
        folder = put(tmp_path / "pair", saliency=True)
        (folder / "final.png").unlink()
        strip = make_strip(folder, tmp_path / "s.webp", 256)
        assert strip == Strip("s.webp", ("first image",), False, 1.0, ("final.png is missing",))
        assert make_strip(folder, tmp_path / "s.webp", 256, failed=True).missing == ()

    def test_everything(self, tmp_path: Path) -> None:
        strip = make_strip(tmp_path, tmp_path / "s.webp", 256)
        assert strip == Strip(missing=("final.png is missing",))
        assert not (tmp_path / "s.webp").exists()

    @pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
    def test_what_is_no_image(self, tmp_path: Path, content: bytes) -> None:
        folder = put(tmp_path / "pair", snapshots=2, saliency=True)
        for name in ("saliency.png", "snapshots/0001.png", "final.png"):
            (folder / name).write_bytes(content)
        (folder / "snapshots" / "notes.png").write_bytes(b"")
        strip = make_strip(folder, tmp_path / "s.webp", 256)
        assert strip.frames == ("first image", "update 0")
        assert strip.missing == ("final.png cannot be read", "saliency.png cannot be read")


def test_overlay_lights_what_is_salient() -> None:
    image = Image.new("RGB", (64, 64), (100, 100, 100))
    saliency = Image.fromarray((blob()[0] * 255).astype(np.uint8))
    lit = np.asarray(overlay(image, saliency), dtype=np.float64).sum(axis=2)
    peak = np.unravel_index(blob()[0].argmax(), (64, 64))
    assert lit[peak] == lit.max()
    assert lit[peak] > 2 * lit[63, 0]
    assert overlay(image, saliency.resize((8, 8))).size == (64, 64)
