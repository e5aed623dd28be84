"""A contact sheet of a pipeline: every noun in all tints, counts and in pairs, and a table of its scene accuracy.

Run ``python -m experiments.emoji_world.sheet FOLDER --steps 4 --guidance 1 --out sheet.png``; ``--accuracy`` reads the
240 held-out prompts in the place of the sheet.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.emoji_world import words
from experiments.emoji_world.captions import describe
from experiments.emoji_world.evaluate import held_out_prompts, sample_accuracy, vanilla_samples
from experiments.emoji_world.scenes import Thing
from sgool.config.paths import home_path

ASSETS = Path(__file__).resolve().parents[2] / "sgool" / "assets" / "emoji_world"


def sheet_prompts() -> list[list[str]]:
    """A row per noun: as it is, in the six tints (also those that its own colours are near to), two to four, pairs."""
    nouns = list(words.NOUNS)
    rows = []
    for index, noun in enumerate(nouns):
        other = nouns[(index + 5) % len(nouns)]
        a, b = describe(Thing(noun)), describe(Thing(other))
        rows.append(
            [a]
            + [describe(Thing(noun, tint)) for tint in words.TINTS]
            + [describe(Thing(noun), count) for count in words.COUNTS]
            + [f"{a} left of {b}", f"{a} above {b}"]
        )
    return rows


def tiled(images: Tensor, columns: int) -> Image.Image:
    """Images (N, 3, H, W) in [0, 1], in rows of ``columns``."""
    rows = [torch.cat(list(part), dim=2) for part in images.split(columns)]
    pixels = (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def accuracy(folder: Path, sampling: dict[str, float], prompts: int | None = None) -> dict[str, dict[str, float]]:
    """Scene accuracy of the held-out prompts per category, and over all of them under "all"."""
    from diffusers import DiffusionPipeline

    from sgool.metrics import SceneReader

    pipeline = DiffusionPipeline.from_pretrained(folder)
    rows = held_out_prompts(ASSETS / "prompts")[:prompts]
    images = vanilla_samples(pipeline, [row["prompt"] for row in rows], sampling=sampling)
    result = sample_accuracy(rows, images, SceneReader.from_pretrained(ASSETS / "reader"))
    number = sum(part["n"] for part in result.values())
    return result | {"all": {"n": number, "all": sum(p["n"] * p["all"] for p in result.values()) / number}}


def draw(folder: Path, sampling: dict[str, float], file: Path) -> None:
    """Writes the contact sheet as a PNG of 256 colours."""
    from diffusers import DiffusionPipeline

    rows = sheet_prompts()
    pipeline = DiffusionPipeline.from_pretrained(folder)
    images = vanilla_samples(pipeline, [prompt for row in rows for prompt in row], sampling=sampling)
    file.parent.mkdir(parents=True, exist_ok=True)
    tiled(images, len(rows[0])).quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.emoji_world.sheet", description=__doc__)
    parser.add_argument("folder", type=home_path, help="a pipeline in diffusers' layout")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--accuracy", action="store_true", help="read the held-out prompts instead of drawing a sheet")
    parser.add_argument("--prompts", type=int, help="of the held-out prompts, the first so many")
    parser.add_argument("--out", type=home_path, default=Path("sheet.png"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    sampling = {"num_inference_steps": arguments.steps, "guidance_scale": arguments.guidance}
    begun = time.monotonic()
    if arguments.accuracy:
        for name, row in accuracy(arguments.folder, sampling, arguments.prompts).items():
            print(name, json.dumps({k: round(float(np.round(v, 3)), 3) for k, v in row.items()}))
    else:
        draw(arguments.folder, sampling, arguments.out)
    logging.info("%.0f s", time.monotonic() - begun)


if __name__ == "__main__":
    main()
