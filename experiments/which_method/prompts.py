"""Writes two prompt sets of things that the few-step student often gets wrong: for tuning, and held-out ones.

python -m experiments.which_method.prompts [--out runs/which_method_prompts]

All prompts have two things with a colour each. Of a pool of random ones, those are taken whose vanilla images are right
least often, over six seeds that no experiment uses, at one denoising step: methods exist to repair prompts that a model
fails at, and where most images are right, every method is good. Nothing else is looked at.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.emoji_world.prompts import WORLD, row, write
from experiments.emoji_world.scenes import Scene, held_out_scene, training_scene
from sgool import fit
from sgool.config.paths import home_path

#: Name -> how scenes are drawn, whether what prompts state is held out, size of the pool, prompts taken, random seed.
SETS: dict[str, tuple[Callable[[np.random.Generator], Scene], bool, int, int, int]] = {
    "tune_hard": (training_scene, False, 400, 48, 1014),
    "hard": (held_out_scene, True, 512, 128, 2027),
}
SEEDS = (100, 101, 102, 103, 104, 105)


def pool(
    sample: Callable[[np.random.Generator], Scene], held_out: bool, number: int, seed: int
) -> list[dict[str, Any]]:
    """Returns ``number`` distinct prompts with two coloured things each.

    Args:
        sample: Draws a scene.
        held_out: Whether what a prompt states must be held out, and not only something in its scene.
        number: How many.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < number:
        scene = sample(rng)
        if not scene.is_pair or not all(thing.tint for thing in scene.objects):
            continue
        text = WORLD.caption(scene, rng, relation=0.5, colours=1, background=0.35)
        if not held_out or WORLD.states_held_out(scene, text):
            found.setdefault(text.text, row(WORLD, scene, text))
    return list(found.values())


def hardest(table: Sequence[dict[str, Any]], number: int, run_dir: Path) -> list[dict[str, Any]]:
    """Returns the prompts that vanilla images show right least often, in the pool's order; equals: the earlier ones."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write("pool", list(table), run_dir)
    outcome = fit(
        "models=emoji_world_turbo",
        "sampler.num_inference_steps=1",
        f"data.prompts={run_dir / 'pool.csv'}",
        f"data.seeds={list(SEEDS)}",
        "methods=[vanilla]",
        "logger=none",
        "trainer.pairs_per_fit=64",
        "trainer.precision=bf16-mixed",
        "trainer.threads=1",
        f"run_dir={run_dir / 'run'}",
    )
    right: dict[str, float] = defaultdict(float)
    for record in outcome.records:
        right[record.prompt] += record.metrics["scene_accuracy"]
    taken = sorted(range(len(table)), key=lambda index: (right[table[index]["prompt"]], index))[:number]
    return [table[index] for index in sorted(taken)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=home_path, default=Path("runs/which_method_prompts"))
    out = parser.parse_args().out
    for name, (sample, held_out, size, number, seed) in SETS.items():
        write(name, hardest(pool(sample, held_out, size, seed), number, out / name))


if __name__ == "__main__":
    main()
