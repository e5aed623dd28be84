"""The guide and the judge of the emoji scenes: CLIPs with 64 px input for images of 128 px.

A whole image reaches them at half its resolution, a crop where people look at its own: what the towers read of either
is measured apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from experiments.emoji_scenes import words as scene_words
from experiments.emoji_scenes.captions import caption
from experiments.emoji_scenes.grounds import SIZE
from experiments.emoji_scenes.scenes import Painter, Scene, training_scene
from experiments.emoji_world import clip as world
from experiments.emoji_world import words
from experiments.emoji_world.captions import Caption
from experiments.emoji_world.scenes import Painted, Thing, changed_thing

_TINTS = (None, *words.TINTS)
_GROUNDS = (*scene_words.GROUNDS, *words.BACKGROUNDS)
_PLACES = tuple(scene_words.PLACES)


def attributes(scene: Scene) -> list[int]:
    """Layout, noun, tint, second noun, second tint (-1: none), ground and place (-1: none) as integers."""
    nouns = list(words.NOUNS)
    a, b = scene.objects[0], scene.objects[-1] if scene.layout == "beside" else None
    return [
        scene_words.LAYOUTS.index(scene.layout),
        nouns.index(a.noun),
        _TINTS.index(a.tint),
        nouns.index(b.noun) if b else -1,
        _TINTS.index(b.tint) if b else -1,
        _GROUNDS.index(scene.ground),
        _PLACES.index(scene.place) if scene.place else -1,
    ]


def stated(text: Caption) -> list[bool]:
    """Which of `attributes` the caption states."""
    return [text.relation, True, text.colours, True, text.colours, text.background, text.relation]


def mutate(scene: Scene, kind: str, rng: np.random.Generator) -> Scene | None:
    """The scene with its ``position``, ``colour``, ``count`` or ``object`` swapped; None if that cannot be."""
    if kind == "position":
        if scene.layout == "beside":
            return replace(scene, objects=scene.objects[::-1])
        others = [place for place in _PLACES if place != scene.place]
        return replace(scene, place=others[rng.integers(2)]) if scene.place else None
    if kind == "count":
        if scene.layout == "beside":
            return None
        counts = [name for name in ("one", "two", "three") if name != scene.layout]
        layout = counts[rng.integers(2)]
        return replace(scene, layout=layout, place=_PLACES[rng.integers(3)] if layout == "one" else None)
    index = int(rng.integers(len(scene.objects)))
    changed = changed_thing(scene.objects[index], kind, {t.noun for t in scene.objects}, rng)
    return replace(scene, objects=tuple(changed if i == index else t for i, t in enumerate(scene.objects)))


def subject_crop(painted: Painted, index: int, rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """A square of ``side`` to half as many pixels with one subject somewhere in it, resized to (128, 128, 3)."""
    rows, columns = np.nonzero(painted.masks[index] > 0.5)
    if len(rows) == 0:  # hidden behind another
        rows, columns = (np.array([int(c)]) for c in painted.centres[index])
    extent = int(max(np.ptp(rows), np.ptp(columns))) + 1
    side = int(np.clip(rng.integers(side // 2, side + 1), min(extent + 2, SIZE), SIZE))
    corner = []
    for values in (rows, columns):
        low, high = max(0, int(values.max()) + 1 - side), min(int(values.min()), SIZE - side)
        corner.append(int(rng.integers(min(low, high), max(low, high) + 1)))
    crop = painted.image[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    tensor = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None].float()
    tensor = F.interpolate(tensor, size=SIZE, mode="bilinear", antialias=True)[0]
    return tensor.permute(1, 2, 0).round().to(torch.uint8).numpy()


class SceneClipStage(world.ClipStage):
    """`ClipStage` of this world's scenes; a quarter of the batch are crops around a subject, whose place is unsaid."""

    sizes = (len(scene_words.LAYOUTS), *2 * (len(words.NOUNS), len(_TINTS)), len(_GROUNDS), len(_PLACES))
    attributes = staticmethod(attributes)
    stated = staticmethod(stated)
    painter: Painter

    def new_scene(self, rng: np.random.Generator) -> Scene:
        """A random scene of the half."""
        return training_scene(rng, half=self.scene_half)

    def new_group(self, rng: np.random.Generator) -> list[tuple[Any, Caption]]:
        """Up to four scenes that differ in one fact each, with captions."""
        scene = training_scene(rng, half=self.scene_half, weights=(3, 4, 1, 1))
        return [(s, caption(s, rng, relation=0.95, colours=0.97)) for s in world.variants(scene, mutate, rng)]

    def new_caption(self, scene: Scene, rng: np.random.Generator) -> Caption:
        """A random caption."""
        return caption(scene, rng)

    def new_crop(self, rng: np.random.Generator) -> tuple[Scene, Caption, np.ndarray]:
        """A crop around the subject of a scene with one: what it shows, its caption without the place, and it."""
        scene = training_scene(rng, half=self.scene_half, weights=(1, 0, 0, 0))
        painted = self.painter.paint(scene, rng)
        thing = scene.objects[0]
        seen = replace(scene, objects=(Thing(thing.noun, thing.tint),), place=None)
        return seen, caption(seen, rng), subject_crop(painted, 0, rng)
