"""What is special to a world of emoji, for the code that all worlds share: prompt sets, hard choices, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class World:
    """A world's scenes and captions. Scenes are the world's own class; ``rng`` is a `numpy.random.Generator`.

    Attributes:
        caption: ``caption(scene, rng, relation=p, colours=p, background=p)`` returns a `Caption` that states each of
            these with its probability.
        mutate: ``mutate(scene, kind, rng)`` returns the scene with one fact swapped, or None.
        training_scene: ``training_scene(rng, half=None)``.
        held_out_scene: ``held_out_scene(rng)``.
        scene_facts: ``scene_facts(scene, relation, background)`` returns what a prompt states, in the form of
            `sgool.metrics.scene_checks`.
        category_of: ``category_of(scene, relation)`` returns one of ``categories``.
        states_held_out: ``states_held_out(scene, caption)``: whether no training scene fits the caption.
        categories: Of prompts, in their order.
        prompts: Folder of the prompt sets.
    """

    caption: Callable[..., Any]
    mutate: Callable[..., Any]
    training_scene: Callable[..., Any]
    held_out_scene: Callable[..., Any]
    scene_facts: Callable[..., dict]
    category_of: Callable[..., str]
    states_held_out: Callable[..., bool]
    categories: tuple[str, ...]
    prompts: Path
