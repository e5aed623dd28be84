"""Scenes of the emoji world: what is in an image, how it is painted, and which set it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.emoji_world import words

SIZE = 64
_GRID = ((19, 19), (45, 19), (19, 45), (45, 45))


@dataclass(frozen=True)
class Thing:
    """One object: a noun and its tint (``None``: the emoji's own colours)."""

    noun: str
    tint: str | None = None


@dataclass(frozen=True)
class Scene:
    """What an image shows, without the jitter of its painting.

    ``objects`` has one entry for ``single``, two for ``left_right`` (left first) and ``top_bottom``
    (top first), and one, repeated by the layout, for ``two``, ``three`` and ``four``.
    """

    layout: str
    objects: tuple[Thing, ...]
    background: str

    @property
    def count(self) -> int:
        """How many objects the image shows."""
        return {"single": 1, "three": 3, "four": 4}.get(self.layout, 2)

    @property
    def is_pair(self) -> bool:
        """Two objects in a spatial relation."""
        return self.layout in ("left_right", "top_bottom")

    def is_held_out(self) -> bool:
        """Whether the scene has a combination that no network may see in training."""
        nouns = [thing.noun for thing in self.objects]
        if any((t.noun, t.tint) in words.HELD_OUT_TINTS for t in self.objects):
            return True
        if self.layout == "single" and (nouns[0], self.background) in words.HELD_OUT_BACKGROUNDS:
            return True
        if self.is_pair:
            pair = (min(nouns), max(nouns))
            triple = (nouns[0], self.layout, nouns[1])
            return pair in words.HELD_OUT_PAIRS or triple in words.HELD_OUT_RELATIONS
        return (nouns[0], self.count) in words.HELD_OUT_COUNTS

    def half(self) -> int:
        """0: the guide's half of the training scenes, 1: the judge's and the scene reader's."""
        things = [(t.noun, t.tint) for t in self.objects]
        return words.stable_hash("half", self.layout, things, self.background) % 2


@dataclass(frozen=True)
class Painted:
    """An image (64, 64, 3) uint8 and, per object, its mask (64, 64) float in [0, 1] and centre (row, column)."""

    image: np.ndarray
    masks: np.ndarray
    centres: np.ndarray


def random_thing(rng: np.random.Generator, tinted: float = 0.6) -> Thing:
    """A random noun, tinted with the given probability."""
    noun = list(words.NOUNS)[rng.integers(len(words.NOUNS))]
    tints = words.allowed_tints(noun)
    return Thing(noun, tints[rng.integers(len(tints))] if rng.random() < tinted else None)


def random_scene(rng: np.random.Generator, weights: tuple[float, ...] = (6, 3, 3, 1, 1.5, 1.5)) -> Scene:
    """A random scene, held out or not; ``weights`` are those of `words.LAYOUTS`."""
    p = np.asarray(weights) / np.sum(weights)
    layout = words.LAYOUTS[rng.choice(len(words.LAYOUTS), p=p)]
    background = list(words.BACKGROUNDS)[rng.integers(len(words.BACKGROUNDS))]
    first = random_thing(rng)
    if layout not in ("left_right", "top_bottom"):
        return Scene(layout, (first,), background)
    second = random_thing(rng)
    while second.noun == first.noun:
        second = random_thing(rng)
    return Scene(layout, (first, second), background)


def training_scene(rng: np.random.Generator, half: int | None = None, **kwargs: object) -> Scene:
    """A random scene that is not held out, of one half (or of both)."""
    while True:
        scene = random_scene(rng, **kwargs)  # type: ignore[arg-type]
        if not scene.is_held_out() and (half is None or scene.half() == half):
            return scene


def held_out_scene(rng: np.random.Generator, **kwargs: object) -> Scene:
    """A random scene with a held-out combination."""
    while True:
        scene = random_scene(rng, **kwargs)  # type: ignore[arg-type]
        if scene.is_held_out():
            return scene


def mutate(scene: Scene, kind: str, rng: np.random.Generator) -> Scene | None:
    """The scene with its ``position``, ``colour``, ``count`` or ``object`` swapped; None if that cannot be."""
    if kind == "position":
        return replace(scene, objects=scene.objects[::-1]) if scene.is_pair else None
    index = int(rng.integers(len(scene.objects)))
    thing = scene.objects[index]
    if kind == "count":
        if scene.is_pair:
            return None
        others = [name for name in ("single", "two", "three", "four") if name != scene.layout]
        return replace(scene, layout=others[rng.integers(len(others))])
    changed = changed_thing(thing, kind, {t.noun for t in scene.objects}, rng)
    objects = tuple(changed if i == index else t for i, t in enumerate(scene.objects))
    return replace(scene, objects=objects)


def changed_thing(thing: Thing, kind: str, taken: set[str], rng: np.random.Generator) -> Thing:
    """The thing in another ``colour``, or another ``object`` (none of ``taken``) that may have its tint."""
    if kind == "colour":
        tints = [t for t in [None, *words.allowed_tints(thing.noun)] if t != thing.tint]
        return Thing(thing.noun, tints[rng.integers(len(tints))])
    nouns = [n for n in words.NOUNS if n not in taken and thing.tint in (None, *words.allowed_tints(n))]
    return Thing(nouns[rng.integers(len(nouns))], thing.tint)


class Painter:
    """Paints scenes from the folder of emoji PNGs; sprites are tinted and resized once and cached."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        missing = [name for name in words.NOUNS.values() if not (self._folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{self._folder} lacks {missing}: expected the 64 px Noto emoji")
        self._cache: dict[tuple, np.ndarray] = {}

    def sprite(self, thing: Thing, size: int) -> np.ndarray:
        """Premultiplied RGBA (h, w, 4) float32 in [0, 1] whose longer side is ``size``."""
        return self.file_sprite(words.NOUNS[thing.noun], thing.tint, size)

    def file_sprite(self, file: str, tint: str | None, size: int) -> np.ndarray:
        """The sprite of any file of the folder."""
        key = (file, tint, size)
        if key not in self._cache:
            image = Image.open(self._folder / file).convert("RGBA")
            image = image.crop(image.getchannel("A").getbbox())
            rgba = np.asarray(image, dtype=np.float32) / 255
            rgba = np.concatenate([_tint(rgba[..., :3], tint), rgba[..., 3:]], axis=-1)
            rgba[..., :3] *= rgba[..., 3:]
            scale = size / max(image.size)
            shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            planes = [Image.fromarray(rgba[..., c]).resize(shape, Image.Resampling.LANCZOS) for c in range(4)]
            self._cache[key] = np.clip(np.stack([np.asarray(p) for p in planes], -1), 0, 1)
        return self._cache[key]

    def paint(self, scene: Scene, rng: np.random.Generator) -> Painted:
        """Paints the scene with jittered positions and sizes."""
        canvas = np.empty((SIZE, SIZE, 3), np.float32)
        canvas[:] = np.asarray(words.BACKGROUNDS[scene.background], np.float32) / 255
        canvas += rng.normal(0, 0.015, 3).astype(np.float32)
        things, places, size, jitter = _layout(scene, rng)
        masks = np.zeros((len(things), SIZE, SIZE), np.float32)
        centres = np.zeros((len(things), 2), np.float32)
        for i, (thing, (x, y)) in enumerate(zip(things, places, strict=True)):
            sprite = self.sprite(thing, size)
            height, width = sprite.shape[:2]
            dx, dy = rng.integers(-jitter, jitter + 1, 2)
            left = int(np.clip(round(x + dx - width / 2), 0, SIZE - width))
            top = int(np.clip(round(y + dy - height / 2), 0, SIZE - height))
            patch = canvas[top : top + height, left : left + width]
            patch *= 1 - sprite[..., 3:]
            patch += sprite[..., :3]
            masks[:, top : top + height, left : left + width] *= 1 - sprite[..., 3]
            masks[i, top : top + height, left : left + width] = sprite[..., 3]
            centres[i] = top + height / 2, left + width / 2
        return Painted((np.clip(canvas, 0, 1) * 255).round().astype(np.uint8), masks, centres)


def _tint(rgb: np.ndarray, tint: str | None) -> np.ndarray:
    """Maps luminance to a ramp from a dark to a light version of the tint."""
    if tint is None:
        return rgb
    luminance = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = np.asarray(words.TINTS[tint], np.float32) / 255
    ramp = np.clip(0.5 + 0.6 * luminance, 0, 1)[..., None]
    return np.clip(colour * ramp + 0.35 * np.clip(luminance - 0.75, 0, 1)[..., None], 0, 1)


def _layout(scene: Scene, rng: np.random.Generator) -> tuple[list[Thing], list[tuple[int, int]], int, int]:
    """Objects, their places (x, y), their common size and the jitter in pixels."""
    if scene.layout == "single":
        return [scene.objects[0]], [(32, 32)], int(rng.integers(20, 25)) * 2, 3
    if scene.layout == "left_right":
        return list(scene.objects), [(17, 32), (47, 32)], int(rng.integers(13, 16)) * 2, 3
    if scene.layout == "top_bottom":
        return list(scene.objects), [(32, 17), (32, 47)], int(rng.integers(13, 16)) * 2, 3
    cells = rng.permutation(4)[: scene.count]
    return [scene.objects[0]] * scene.count, [_GRID[c] for c in sorted(cells)], int(rng.integers(11, 13)) * 2, 2
