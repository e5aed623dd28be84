"""Photos from files of all kinds, and files that are none."""

from __future__ import annotations

import importlib.machinery
import io
import sys
import types
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from sgool.errors import SgoolError
from sgool.models import formats
from sgool.models.formats import suffixes
from sgool.models.images import fit_photo, open_photo, to_tensor

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def picture(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


#: Pillow writes AVIF from 11.3 on.
AVIF = pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this Pillow has no AVIF")
KINDS = {"jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "avif": "AVIF", "bmp": "BMP", "jp2": "JPEG2000", "tga": "TGA"}


@pytest.mark.parametrize(
    "name",
    [
        *("a.png", "a.PNG", "no_suffix", "a.ppm", "a.gif"),
        *(pytest.param(f"a.{end}", marks=[AVIF] if end == "avif" else []) for end in KINDS),
    ],
)
def test_formats(tmp_path: Path, name: str) -> None:
    kind = KINDS.get(end := name.rpartition(".")[2], {"ppm": "PPM", "gif": "GIF"}.get(end, "PNG"))
    photo = open_photo(saved(picture(), tmp_path / name, format=kind))
    assert (photo.mode, photo.size) == ("RGB", (40, 20))
    # Lossy formats may be off by some of 255 steps away from the edge between the colours.
    for place, colour in (((5, 10), RED), ((35, 10), BLUE)):
        assert np.abs(np.subtract(photo.getpixel(place), colour)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=AVIF)])
def test_every_exif_orientation_comes_out_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    """What the camera stored is the scene turned the other way; each corner shows where it went."""
    upright = Image.new("RGB", (64, 32), WHITE)
    for box, colour in (((0, 0, 32, 16), RED), ((32, 0, 64, 16), GREEN), ((0, 16, 32, 32), BLUE)):
        upright.paste(colour, box)
    turns = Image.Transpose
    stored = {
        1: [],
        2: [turns.FLIP_LEFT_RIGHT],
        3: [turns.ROTATE_180],
        4: [turns.FLIP_TOP_BOTTOM],
        5: [turns.TRANSPOSE],
        6: [turns.ROTATE_90],
        7: [turns.TRANSVERSE],
        8: [turns.ROTATE_270],
    }[orientation]
    camera = upright
    for turn in stored:
        camera = camera.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(
        kind, {}
    )
    photo = open_photo(saved(camera, tmp_path / "a", format=kind, exif=exif, **options))
    assert photo.size == upright.size
    for place in ((8, 8), (56, 8), (8, 24), (56, 24)):
        assert np.abs(np.subtract(photo.getpixel(place), upright.getpixel(place))).max() <= 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB with a transparent colour"])
def test_transparency_is_put_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 16, 32))
    options: dict[str, object] = {}
    if mode in ("P", "RGB with a transparent colour"):
        image = Image.new("RGB", (32, 32), GREEN)
        image.paste((0, 0, 0), (0, 0, 16, 32))
        options["transparency"] = GREEN
        if mode == "P":
            image = image.quantize(2)
            options["transparency"] = image.getpixel((24, 16))
    elif mode == "LA":
        image = image.convert("LA")
    photo = open_photo(saved(image, tmp_path / "a.png", **options))
    assert photo.mode == "RGB"
    assert (photo.getpixel((8, 16)), photo.getpixel((24, 16))) == ((0, 0, 0), WHITE)


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    photo = open_photo(saved(Image.new("RGBA", (16, 16), (200, 0, 0, 128)), tmp_path / "a.png"))
    # 128 / 255 of (200, 0, 0) and the rest of white, rounded.
    assert np.abs(np.subtract(photo.getpixel((3, 3)), (227, 127, 127))).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (16, 16), WHITE).convert(mode)
    photo = open_photo(saved(image, tmp_path / "a", format="JPEG" if mode == "CMYK" else "PNG"))
    assert (photo.mode, photo.getpixel((8, 8))) == ("RGB", WHITE)


def test_grey_of_16_bits_is_scaled_not_cut_off(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256 * 16).astype(np.uint16).reshape(16, 256)
    photo = open_photo(saved(Image.fromarray(ramp), tmp_path / "a.png"))
    expected = np.round(ramp / 257.0)
    assert np.abs(np.asarray(photo)[..., 0] - expected).max() == 0


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", pytest.param("AVIF", marks=AVIF)])
def test_of_an_animation_the_first_frame_counts_and_that_is_said(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (GREEN, RED, BLUE)]
    more = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:], **more)
    notes: list[str] = []
    photo = open_photo(tmp_path / "a", on_note=notes.append)
    assert np.abs(np.subtract(photo.getpixel((4, 4)), GREEN)).max() <= 2  # AVIF is lossy
    assert notes == [f"{str(tmp_path / 'a')!r} has 3 frames or pages; the first one is used"]
    open_photo(saved(frames[0], tmp_path / "b", format=kind), on_note=notes.append)
    assert len(notes) == 1


def test_a_gif_with_a_transparent_colour_is_put_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 16, 32))
    photo = open_photo(saved(image, tmp_path / "a.gif"))
    assert (photo.getpixel((8, 16)), photo.getpixel((24, 16))) == (RED, WHITE)


#: A Pillow before 13 cannot read the file that it has written in this mode.
YCBCR = pytest.mark.skipif(int(PIL.__version__.partition(".")[0]) < 13, reason="this Pillow cannot read such a TIFF")


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "LA", pytest.param("YCbCr", marks=YCBCR)])
def test_the_modes_of_a_tiff(tmp_path: Path, mode: str) -> None:
    """By their definitions: CMYK ink of 40 % magenta leaves 60 % of green; half of a colour lies on white."""
    fill, expected = {
        "CMYK": ((0, 102, 0, 0), (255, 153, 255)),
        "RGBA": ((200, 0, 0, 128), (227, 127, 127)),
        "LA": ((0, 128), (127, 127, 127)),
        "YCbCr": ((128, 128, 128), (128, 128, 128)),
    }[mode]
    photo = open_photo(saved(Image.new(mode, (16, 16), fill), tmp_path / "a.tif"))
    assert photo.mode == "RGB" and np.abs(np.subtract(photo.getpixel((3, 3)), expected)).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_16_bits_is_scaled(tmp_path: Path, order: str) -> None:
    ramp = np.linspace(0, 65535, 256 * 16).astype(np.uint16).reshape(16, 256)
    stored = Image.frombytes("I;16" if order == "<" else "I;16B", (256, 16), ramp.astype(f"{order}u2").tobytes())
    photo = open_photo(saved(stored, tmp_path / "a.tif"))
    assert np.abs(np.asarray(photo)[..., 1] - np.round(ramp / 257.0)).max() == 0


@pytest.mark.parametrize(("top", "sound"), [(1.0, True), (255.0, False), (np.nan, False)])
def test_a_tiff_of_floats(tmp_path: Path, top: float, sound: bool) -> None:
    values = np.linspace(0, 1, 256 * 16, dtype=np.float32).reshape(16, 256)
    values[-1, -1] = top
    path = saved(Image.fromarray(values), tmp_path / "a.tif")
    if sound:
        assert np.abs(np.asarray(open_photo(path))[..., 0] - np.round(values * 255)).max() <= 1
    else:
        with pytest.raises(SgoolError, match=r"its values go from .* expected 0 to 1; save it with 8 or 16 bits"):
            open_photo(path)


def test_integers_of_32_bits_have_no_known_range(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.full((16, 16), 70000, np.int32)), tmp_path / "a.tif")
    with pytest.raises(SgoolError, match=r"its values go from 70000 to 70000, expected 0 to 65535"):
        open_photo(path)


def test_heic_with_its_plug_in(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    image = picture(64, 32)
    photo = open_photo(saved(image, tmp_path / "a.heic", format="HEIF", quality=-1))
    assert photo.size == (64, 32) and np.abs(np.subtract(photo.getpixel((5, 10)), RED)).max() <= 6
    assert ".heic" in suffixes()


def test_heic_without_its_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_PLUG_INS", {})
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)  # another test may have registered it
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + b"\0" * 400)
    with pytest.raises(
        SgoolError, match=r"is of the format HEIC, .* \(pip install pillow-heif\), or convert it to PNG"
    ):
        open_photo(tmp_path / "a.heic")


def test_a_plug_in_of_pillow_is_asked_for_its_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plug_in = types.ModuleType("pillow_heif")
    plug_in.__spec__ = importlib.machinery.ModuleSpec("pillow_heif", None)
    plug_in.register_heif_opener = lambda: asked.append("heif")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in)
    open_photo(saved(picture(), tmp_path / "a.png"))
    assert asked == ["heif"]


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (33, 100), (16, 4000), (4000, 16)])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_every_fit_has_the_models_size(size: tuple[int, int], fit: str) -> None:
    assert fit_photo(picture(*size), 24, 32, fit).size == (32, 24)


def test_crop_keeps_the_middle() -> None:
    image = Image.new("RGB", (60, 20), RED)
    image.paste(GREEN, (20, 0, 40, 20))
    assert np.unique(np.asarray(fit_photo(image, 20, 20, "crop")).reshape(-1, 3), axis=0).tolist() == [list(GREEN)]


def test_squash_keeps_both_ends_and_pad_the_proportions() -> None:
    squashed, padded = (fit_photo(picture(64, 32), 32, 32, fit) for fit in ("squash", "pad"))
    assert (squashed.getpixel((1, 1)), squashed.getpixel((30, 30))) == (RED, BLUE)
    rows = np.asarray(padded)
    assert (rows[:8] == 255).all() and (rows[24:] == 255).all()
    assert (padded.getpixel((1, 9)), padded.getpixel((30, 22))) == (RED, BLUE)


def test_pixels_become_a_tensor() -> None:
    tensor = to_tensor(picture(4, 2))
    assert tensor.shape == (3, 2, 4) and tensor.dtype == torch.float32
    assert tensor[:, 0, 0].tolist() == [1, 0, 0] and tensor[:, 1, 3].tolist() == [0, 0, 1]


def test_an_unknown_fit() -> None:
    with pytest.raises(SgoolError, match="--fit: expected crop, squash or pad, got 'stretch'"):
        fit_photo(picture(), 16, 16, "stretch")


def _png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello, this is text" * 20, "is not an image of a format that can be read"),
        (b"\x89PNG\r\n\x1a\n", "not an image of a format|damaged or cut off"),
        (_png()[: len(_png()) // 2], "is damaged or cut off"),
        (_png()[:2000] + b"\0" * 3000 + _png()[5000:], "is damaged or cut off"),
        (b"GIF89a" + b"\0" * 40, "expected at least 16 pixels|not an image of a format|damaged or cut off"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n", "is a drawing or document, not a photo"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is a drawing or document, not a photo"),
    ],
    ids=["empty", "text", "signature only", "truncated", "overwritten", "no gif", "eps", "svg"],
)
def test_files_that_are_no_sound_image(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(SgoolError, match=f"IMAGE: .*a.png.*({words})"):
        open_photo(tmp_path / "a.png")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match=r"expected an image file, but '.*none.png' does not exist"):
        open_photo(tmp_path / "none.png")
    with pytest.raises(SgoolError, match="is a folder"):
        open_photo(tmp_path)


@pytest.mark.parametrize(("size", "sound"), [((16, 16), True), ((15, 300), False), ((300, 15), False), ((1, 1), False)])
def test_tiny_images(tmp_path: Path, size: tuple[int, int], sound: bool) -> None:
    path = saved(picture(*size), tmp_path / "a.png")
    if sound:
        assert open_photo(path).size == size
    else:
        with pytest.raises(SgoolError, match=rf"at least 16 pixels a side, got {size[0]} x {size[1]}"):
            open_photo(path)


def test_huge_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own guard, with a smaller limit than its 179 megapixels: below twice the limit it would only warn."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert open_photo(saved(picture(50, 30), tmp_path / "large.png")).size == (50, 30)
    with pytest.raises(SgoolError, match=r"huge.png' has more than 2000 pixels; scale it down first"):
        open_photo(saved(picture(60, 40), tmp_path / "huge.png"))
