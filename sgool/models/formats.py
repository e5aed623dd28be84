"""Which image files can be read here, by Pillow and its plug-ins, and how pixels of every kind become 8-bit RGB."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from PIL import Image

#: What can be read, for messages and help.
READABLE = "PNG, JPEG, WebP, TIFF, GIF, AVIF, BMP, HEIC (with pillow-heif) and whatever else Pillow reads"
#: Formats of Pillow that are no photos: drawings that another program or only Windows can draw, scientific grids,
#: films, and headers without pixels.
_NO_PHOTOS = frozenset({"BUFR", "EPS", "FITS", "FLI", "GRIB", "HDF5", "IPTC", "MCIDAS", "MPEG", "WMF", "XVTHUMB"})
#: Module of a plug-in of Pillow -> its function that registers the formats; None: the import does.
_PLUG_INS = {"pillow_heif": "register_heif_opener", "pillow_avif": None, "pillow_jxl": None}
#: The first brand in an ISO media file -> the name of its format, and how to read it.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), ("AVIF", "install a newer Pillow (11.3 or later)")),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        ("HEIC", "install its plug-in (pip install pillow-heif)"),
    ),
}
_JPEG_XL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Formats whose further frames are sizes, views or layers of one picture.
_ONE_PICTURE = ("ICNS", "ICO", "MPO", "PSD")
_WITH_ALPHA = ("PA", "LA", "RGBA", "RGBa")
_MOST = 65535


def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that can be read here; it loads the plug-ins that are installed."""
    Image.init()
    for module, register in _PLUG_INS.items():
        if importlib.util.find_spec(module) is not None:
            plug_in = importlib.import_module(module)
            if register is not None:
                getattr(plug_in, register)()
    return tuple(name for name in Image.OPEN if name not in _NO_PHOTOS)


def suffixes() -> frozenset[str]:
    """Returns the suffixes of files of these formats, in lower case and with the dot."""
    known = formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def unknown_format(file: Path) -> str:
    """Returns what is known of a file that Pillow could not identify, and how to mend it, as the end of a sentence."""
    with file.open("rb") as stream:
        head = stream.read(32)
    name, mend = _BRANDS.get(head[8:12], ("", "")) if head[4:8] == b"ftyp" else ("", "")
    if head.startswith(_JPEG_XL):
        name, mend = "JPEG XL", "install a plug-in of Pillow (pip install pillow-jxl-plugin)"
    if name:
        return f"is of the format {name}, which cannot be read here: {mend}, or convert it to PNG"
    if head.startswith((b"%!PS", b"%PDF", b"<svg", b"<?xml", b"\xc5\xd0\xd3\xc6")):
        return "is a drawing or document, not a photo; export it as PNG"
    if head.startswith(_TIFF):
        return "is a TIFF file with pixels that Pillow does not know; save it with 8 or 16 bits a channel, or as PNG"
    return f"is not an image of a format that can be read ({READABLE}); convert it to PNG"


def note_on_frames(image: Image.Image) -> str:
    """Returns a sentence where an image is an animation or has several pages; empty where it has one picture."""
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format in _ONE_PICTURE:
        return ""
    return f"has {frames} frames or pages; the first one is used"


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts pixels of any mode to 8-bit RGB: grey to equal channels, CMYK to RGB, transparency to white below.

    Integers of more than 8 bits are scaled from [0, 65535], floating-point numbers from [0, 1]. Colour profiles are not
    applied.

    Raises:
        ValueError: The mode has no such meaning, or numbers lie outside of that range.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_numbers(image)
    if image.mode == "LAB":
        raise ValueError("its colours are CIELAB; save it in RGB")
    if image.mode == "La":  # Pillow knows one way out of it
        image = image.convert("LA")
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _from_numbers(image: Image.Image) -> Image.Image:
    """Scales a grey image of integers or floats to 8 bits; Pillow's own conversion would cut values off at 255."""
    import numpy as np

    values = np.asarray(image)
    most = 1.0 if image.mode == "F" else float(_MOST)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= most):
        raise ValueError(
            f"its values go from {values.min():g} to {values.max():g}, expected 0 to {most:g}; save it with 8 or 16 "
            "bits a channel"
        )
    grey = (values / (most / 255)).round().astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")
