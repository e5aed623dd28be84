"""Busy grounds of 128 px, drawn by code: meadow, room, sea, street and night, each different every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
#: Drawn at twice the size and halved, for smooth edges.
_SCALE = 2
_FULL = SIZE * _SCALE

Colour = tuple[int, int, int]


def draw_ground(name: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A ground (128, 128, 3) float32 in [0, 1] and its horizon: the row, from 0 to 1, below which things stand."""
    return _GROUNDS[name](rng)


def _shade(colour: Colour, rng: np.random.Generator, spread: float = 14) -> Colour:
    values = np.asarray(colour) + rng.normal(0, spread, 3) + rng.normal(0, spread)
    return tuple(int(v) for v in np.clip(values, 0, 255))  # type: ignore[return-value]


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    ramp = np.linspace(0, 1, _FULL)[:, None, None]
    rows = np.asarray(top) * (1 - ramp) + np.asarray(bottom) * ramp
    return Image.fromarray(np.broadcast_to(rows, (_FULL, _FULL, 3)).astype(np.uint8))


def _finished(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Halved, with a little noise of three scales, as texture."""
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255
    for cells, strength in ((8, 0.015), (32, 0.012)):
        noise = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        plane = Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        small = small + np.asarray(plane)[..., None]
    return np.clip(small, 0, 1).astype(np.float32)


def _ellipse(draw: ImageDraw.ImageDraw, x: float, y: float, width: float, height: float, fill: Colour) -> None:
    draw.ellipse((x - width / 2, y - height / 2, x + width / 2, y + height / 2), fill=fill)


def _clouds(draw: ImageDraw.ImageDraw, rng: np.random.Generator, horizon: float, fill: Colour) -> None:
    for _ in range(rng.integers(1, 4)):
        x, y = rng.uniform(0, _FULL), rng.uniform(0.05, 0.7) * horizon
        for _ in range(4):
            _ellipse(draw, x + rng.normal(0, 16), y + rng.normal(0, 3), rng.uniform(20, 44), rng.uniform(10, 18), fill)


def _hills(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: float, height: float, fill: Colour) -> None:
    x = np.linspace(0, _FULL, 33)
    y = base - height * (0.5 + 0.5 * np.sin(x / _FULL * rng.uniform(4, 10) + rng.uniform(0, 6.3)))
    draw.polygon([(0, _FULL), *zip(x.tolist(), y.tolist(), strict=True), (_FULL, _FULL)], fill=fill)


def _meadow(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    image = _gradient(_shade((96, 168, 236), rng), _shade((206, 232, 250), rng))
    draw = ImageDraw.Draw(image)
    horizon = rng.uniform(0.3, 0.5) * _FULL
    if rng.random() < 0.6:
        radius = rng.uniform(22, 36)
        _ellipse(
            draw, rng.uniform(0, _FULL), rng.uniform(0.1, 0.6) * horizon, radius, radius, _shade((255, 236, 150), rng)
        )
    _clouds(draw, rng, horizon, _shade((246, 248, 252), rng, 4))
    _hills(draw, rng, horizon, rng.uniform(6, 30), _shade((124, 178, 116), rng))
    grass = _shade((110, 176, 70), rng)
    _hills(draw, rng, horizon + rng.uniform(16, 30), rng.uniform(4, 14), grass)
    for _ in range(rng.integers(40, 90)):
        x, y = rng.uniform(0, _FULL), rng.uniform(horizon + 36, _FULL)
        blade = _shade((88, 150, 56), rng, 10)
        draw.line((x, y, x + rng.normal(0, 3), y - rng.uniform(4, 10)), fill=blade, width=2)
    for _ in range(rng.integers(0, 14)):
        flower = _shade(((250, 250, 250), (250, 214, 90), (240, 150, 190))[rng.integers(3)], rng, 8)
        _ellipse(draw, rng.uniform(0, _FULL), rng.uniform(horizon + 36, _FULL), 5, 5, flower)
    return _finished(image, rng), (horizon + 34) / _FULL


def _room(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    wall = _shade(((232, 220, 196), (206, 222, 214), (222, 206, 222), (200, 210, 226))[rng.integers(4)], rng)
    image = _gradient(wall, _shade(wall, rng, 6))
    draw = ImageDraw.Draw(image)
    floor = rng.uniform(0.55, 0.7) * _FULL
    stripe = _shade(wall, rng, 8)
    if rng.random() < 0.5:
        step = int(rng.integers(14, 30))
        for x in range(0, _FULL, step):
            draw.rectangle((x, 0, x + step // 3, floor), fill=stripe)
    _window(draw, rng, floor)
    if rng.random() < 0.7:
        _picture(draw, rng, floor)
    wood = _shade((176, 128, 84), rng)
    draw.rectangle((0, floor, _FULL, _FULL), fill=wood)
    draw.rectangle((0, floor - 6, _FULL, floor), fill=_shade((240, 238, 232), rng, 5))
    vanish = rng.uniform(0.3, 0.7) * _FULL
    for x in np.linspace(-_FULL, 2 * _FULL, 16):
        draw.line((vanish + (x - vanish) * 0.45, floor, x, _FULL), fill=_shade(wood, rng, 8), width=2)
    if rng.random() < 0.7:
        _ellipse(
            draw,
            rng.uniform(40, _FULL - 40),
            (floor + _FULL) / 2,
            rng.uniform(90, 170),
            44,
            _shade((176, 80, 80), rng, 40),
        )
    return _finished(image, rng), floor / _FULL + 0.02


def _window(draw: ImageDraw.ImageDraw, rng: np.random.Generator, floor: float) -> None:
    x, y, width, height = rng.uniform(10, 150), rng.uniform(14, 30), rng.uniform(50, 80), rng.uniform(50, floor - 60)
    draw.rectangle((x - 5, y - 5, x + width + 5, y + height + 5), fill=(246, 244, 238))
    draw.rectangle((x, y, x + width, y + height), fill=_shade((150, 204, 240), rng))
    draw.line((x + width / 2, y, x + width / 2, y + height), fill=(246, 244, 238), width=4)
    draw.line((x, y + height / 2, x + width, y + height / 2), fill=(246, 244, 238), width=4)


def _picture(draw: ImageDraw.ImageDraw, rng: np.random.Generator, floor: float) -> None:
    x, y, side = rng.uniform(0, _FULL - 50), rng.uniform(16, floor - 80), rng.uniform(28, 46)
    draw.rectangle((x, y, x + side, y + side), fill=_shade((120, 84, 50), rng))
    draw.rectangle((x + 5, y + 5, x + side - 5, y + side - 5), fill=_shade((200, 200, 180), rng, 30))
    _ellipse(draw, x + side / 2, y + side / 2, side / 3, side / 3, _shade((180, 120, 100), rng, 40))


def _sea(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    image = _gradient(_shade((120, 190, 240), rng), _shade((214, 236, 248), rng))
    draw = ImageDraw.Draw(image)
    horizon, shore = rng.uniform(0.25, 0.4) * _FULL, rng.uniform(0.58, 0.72) * _FULL
    _clouds(draw, rng, horizon, _shade((246, 248, 252), rng, 4))
    if rng.random() < 0.5:
        _hills(draw, rng, horizon + 2, rng.uniform(8, 22), _shade((120, 150, 160), rng))
    water = _shade((40, 120, 176), rng)
    draw.rectangle((0, horizon, _FULL, _FULL), fill=water)
    for _ in range(rng.integers(24, 50)):
        x, y = rng.uniform(0, _FULL), rng.uniform(horizon + 4, shore)
        length = 6 + 26 * (y - horizon) / _FULL
        draw.arc((x, y, x + length, y + 7), 190, 350, fill=_shade((150, 206, 230), rng), width=2)
    _hills(draw, rng, shore, 12, _shade((236, 244, 246), rng, 5))
    sand = _shade((232, 208, 150), rng)
    _hills(draw, rng, shore + 8, 12, sand)
    for _ in range(rng.integers(20, 60)):
        _ellipse(draw, rng.uniform(0, _FULL), rng.uniform(shore + 12, _FULL), 3, 2, _shade(sand, rng, 16))
    return _finished(image, rng), (shore + 8) / _FULL


def _street(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    image = _gradient(_shade((170, 200, 226), rng), _shade((226, 230, 232), rng))
    draw = ImageDraw.Draw(image)
    ground = rng.uniform(0.52, 0.64) * _FULL
    x = -rng.uniform(0, 30)
    while x < _FULL:
        width, top = rng.uniform(36, 70), rng.uniform(0.05, 0.5) * ground
        _building(draw, rng, (x, top, x + width, ground))
        x += width
    draw.rectangle((0, ground, _FULL, _FULL), fill=_shade((178, 176, 172), rng, 8))
    road = ground + rng.uniform(16, 30)
    draw.rectangle((0, road, _FULL, _FULL), fill=_shade((98, 100, 106), rng, 8))
    line, start = (road + _FULL) / 2, rng.uniform(-30, 0)
    for k in range(8):
        draw.rectangle((start + 44 * k, line - 3, start + 44 * k + 24, line + 3), fill=_shade((236, 234, 220), rng, 6))
    return _finished(image, rng), ground / _FULL + 0.04


def _building(draw: ImageDraw.ImageDraw, rng: np.random.Generator, box: tuple[float, float, float, float]) -> None:
    wall = _shade(((190, 120, 96), (206, 186, 150), (150, 160, 172), (176, 152, 140))[rng.integers(4)], rng)
    draw.rectangle(box, fill=wall)
    glass, columns = _shade((212, 226, 232), rng), int(rng.integers(2, 4))
    step = (box[2] - box[0]) / columns
    for y in np.arange(box[1] + 8, box[3] - 16, 20):
        for k in range(columns):
            left = box[0] + step * (k + 0.25)
            draw.rectangle((left, y, left + step / 2, y + 11), fill=_shade(glass, rng, 14))


def _night(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    image = _gradient(_shade((12, 18, 52), rng, 5), _shade((54, 52, 108), rng, 8))
    draw = ImageDraw.Draw(image)
    horizon = rng.uniform(0.45, 0.6) * _FULL
    for _ in range(rng.integers(20, 50)):
        size = rng.uniform(1.5, 4)
        _ellipse(draw, rng.uniform(0, _FULL), rng.uniform(0, horizon), size, size, _shade((236, 236, 214), rng))
    x, y, moon = rng.uniform(20, _FULL - 20), rng.uniform(16, 50), rng.uniform(18, 34)
    _ellipse(draw, x, y, moon, moon, (244, 240, 206))
    if rng.random() < 0.5:
        _ellipse(draw, x + moon / 3, y - 2, moon, moon, (18, 24, 60))
    _hills(draw, rng, horizon, rng.uniform(16, 40), _shade((34, 40, 78), rng, 6))
    for _ in range(rng.integers(3, 9)):
        left, top = rng.uniform(0, _FULL), horizon + rng.uniform(-14, 10)
        draw.rectangle((left, top, left + rng.uniform(4, 7), top + 6), fill=_shade((250, 206, 110), rng))
    _hills(draw, rng, horizon + rng.uniform(18, 30), rng.uniform(4, 12), _shade((30, 52, 60), rng, 6))
    return _finished(image, rng), (horizon + 30) / _FULL


_GROUNDS: dict[str, Callable[[np.random.Generator], tuple[np.ndarray, float]]] = {
    "meadow": _meadow,
    "room": _room,
    "sea": _sea,
    "street": _street,
    "night": _night,
}
