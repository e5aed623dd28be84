"""Scenes of 128 px: small subjects on busy grounds with distractors, and plain layouts; their saliency is known."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from experiments.emoji_scenes import words as scene_words
from experiments.emoji_scenes.grounds import SIZE, draw_ground
from experiments.emoji_world import scenes as world
from experiments.emoji_world import words
from experiments.emoji_world.scenes import Painted, Thing, random_thing

#: Side of a subject in pixels: 12 to 30 % of the image on busy grounds, and on plain ones.
BUSY_SIZES = (16, 38)
PLAIN_SIZES = (36, 60)


@dataclass(frozen=True)
class Scene:
    """What an image shows.

    Attributes:
        layout: One of `words.LAYOUTS`; "beside" has two objects, the left one first.
        objects: One thing, or two for "beside"; "two" and "three" repeat theirs.
        ground: One of `words.GROUNDS`, or a plain background of the emoji world.
        place: Of the object of "one": a key of `words.PLACES`; None for other layouts.
    """

    layout: str
    objects: tuple[Thing, ...]
    ground: str
    place: str | None = None

    @property
    def count(self) -> int:
        """How many subjects the image shows."""
        return {"one": 1, "three": 3}.get(self.layout, 2)

    @property
    def is_pair(self) -> bool:
        """Two objects in a spatial relation."""
        return self.layout == "beside"

    @property
    def background(self) -> str:
        """The ground, by the emoji world's name."""
        return self.ground

    @property
    def is_busy(self) -> bool:
        """Whether the ground is a drawn one, with distractors."""
        return self.ground in scene_words.GROUNDS

    def is_held_out(self) -> bool:
        """Whether the scene has a combination that no network may see in training."""
        nouns = [thing.noun for thing in self.objects]
        if any((t.noun, t.tint) in words.HELD_OUT_TINTS for t in self.objects):
            return True
        if self.layout == "beside":
            return (min(nouns), max(nouns)) in words.HELD_OUT_PAIRS
        if self.layout != "one":
            return (nouns[0], self.count) in scene_words.HELD_OUT_COUNTS
        held_out = (nouns[0], self.ground) in scene_words.HELD_OUT_GROUNDS
        return held_out or (nouns[0], self.place) in scene_words.HELD_OUT_PLACES

    def half(self) -> int:
        """0: the guide's half of the training scenes, 1: the judge's and the scene reader's."""
        things = [(t.noun, t.tint) for t in self.objects]
        return words.stable_hash("scenes half", self.layout, things, self.ground, self.place) % 2


def random_scene(rng: np.random.Generator, busy: float = 0.75, weights: tuple[float, ...] = (6, 3, 1, 1)) -> Scene:
    """A random scene, held out or not; ``weights`` are those of `words.LAYOUTS`, ``busy`` the share of busy grounds."""
    layout = scene_words.LAYOUTS[rng.choice(4, p=np.asarray(weights) / np.sum(weights))]
    grounds = list(scene_words.GROUNDS if rng.random() < busy else words.BACKGROUNDS)
    ground = grounds[rng.integers(len(grounds))]
    first = random_thing(rng)
    if layout == "one":
        return Scene(layout, (first,), ground, list(scene_words.PLACES)[rng.integers(3)])
    if layout != "beside":
        return Scene(layout, (first,), ground)
    second = random_thing(rng)
    while second.noun == first.noun:
        second = random_thing(rng)
    return Scene(layout, (first, second), ground)


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


class Painter:
    """Paints scenes of 128 px from the folder of emoji PNGs.

    Grounds are drawn anew for each image, or taken from a store of ``grounds`` images per kind that are mirrored at
    random: drawing takes several times as long as everything else.
    """

    def __init__(self, folder: str | Path, grounds: int | None = 400, seed: int = 0) -> None:
        self._sprites = world.Painter(folder)
        missing = [f for files in scene_words.DISTRACTORS.values() for f in files if not (Path(folder) / f).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {missing}: expected the 64 px Noto emoji")
        self._number, self._seed = grounds, seed
        self._store: dict[tuple[str, int], tuple[np.ndarray, float]] = {}

    def paint(self, scene: Scene, rng: np.random.Generator) -> Painted:
        """The image (128, 128, 3) uint8, the subjects' masks and their centres."""
        canvas, horizon = self._ground(scene, rng)
        if scene.is_busy:
            self._distract(canvas, scene.ground, horizon, rng)
        things = list(scene.objects) if scene.layout == "beside" else [scene.objects[0]] * scene.count
        low, high = BUSY_SIZES if scene.is_busy else PLAIN_SIZES
        size = int(rng.integers(low, (high if scene.count == 1 else min(high, 38)) + 1))
        masks, centres = np.zeros((len(things), SIZE, SIZE), np.float32), np.zeros((len(things), 2), np.float32)
        for i, (thing, column) in enumerate(zip(things, _columns(scene, size, rng), strict=True)):
            sprite = self._sprites.sprite(thing, size)
            row = _row(size, horizon if scene.is_busy else None, rng)
            top, left = _paste(canvas, sprite, row, column)
            box = np.s_[top : top + sprite.shape[0], left : left + sprite.shape[1]]
            masks[(slice(None), *box)] *= 1 - sprite[..., 3]
            masks[(i, *box)] = sprite[..., 3]
            centres[i] = top + sprite.shape[0] / 2, left + sprite.shape[1] / 2
        return Painted((np.clip(canvas, 0, 1) * 255).round().astype(np.uint8), masks, centres)

    def _ground(self, scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        if not scene.is_busy:
            canvas = np.empty((SIZE, SIZE, 3), np.float32)
            canvas[:] = np.asarray(words.BACKGROUNDS[scene.ground], np.float32) / 255
            return canvas + rng.normal(0, 0.015, 3).astype(np.float32), 0.0
        if self._number is None:
            return draw_ground(scene.ground, rng)
        key = (scene.ground, int(rng.integers(self._number)))
        if key not in self._store:
            image, horizon = draw_ground(scene.ground, np.random.default_rng([self._seed, words.stable_hash(*key)]))
            self._store[key] = image.astype(np.float16), horizon
        image, horizon = self._store[key]
        return (image[:, ::-1] if rng.random() < 0.5 else image).astype(np.float32), horizon

    def _distract(self, canvas: np.ndarray, ground: str, horizon: float, rng: np.random.Generator) -> None:
        """Up to one large thing, then a few smaller than any subject."""
        files = scene_words.DISTRACTORS[ground]
        sizes = [int(rng.integers(42, 58))] if rng.random() < 0.35 else []
        sizes += rng.integers(8, 15, rng.integers(2, 6)).tolist()
        for size in sizes:
            sprite = self._sprites.file_sprite(files[rng.integers(len(files))], None, size)
            _paste(canvas, sprite, _row(size, horizon, rng), rng.uniform(size / 2, SIZE - size / 2))


def _columns(scene: Scene, size: int, rng: np.random.Generator) -> list[float]:
    """The centre columns of the subjects, from left to right."""
    half, sixth = size / 2, SIZE / 6
    if scene.place is not None:
        centre = {"left": sixth, "middle": SIZE / 2, "right": SIZE - sixth}[scene.place]
        return [float(np.clip(centre + rng.uniform(-8, 8), half, SIZE - half))]
    cells = np.linspace(0, SIZE, scene.count + 1)
    # Each within its share of the width, so that equal subjects do not hide one another.
    spare = max(0.0, SIZE / scene.count / 2 - half)
    return [float((a + b) / 2 + rng.uniform(-spare, spare) * 0.8) for a, b in pairwise(cells)]


def _row(size: int, horizon: float | None, rng: np.random.Generator) -> float:
    """A centre row: about the middle on plain grounds, with its feet below the horizon on busy ones."""
    if horizon is None:
        return SIZE / 2 + float(rng.uniform(-16, 16))
    lowest = SIZE - size / 2 - 2
    return float(rng.uniform(min(horizon * SIZE + 4 - size / 3, lowest), lowest))


def _paste(canvas: np.ndarray, sprite: np.ndarray, row: float, column: float) -> tuple[int, int]:
    """Paints the sprite around (row, column), moved inside the image; returns its top left corner."""
    height, width = sprite.shape[:2]
    top = int(np.clip(round(row - height / 2), 0, SIZE - height))
    left = int(np.clip(round(column - width / 2), 0, SIZE - width))
    patch = canvas[top : top + height, left : left + width]
    patch *= 1 - sprite[..., 3:]
    patch += sprite[..., :3]
    return top, left
