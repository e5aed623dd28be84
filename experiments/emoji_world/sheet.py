"""A contact sheet of a pipeline: every noun in all tints, counts and in pairs, and a table of its scene accuracy.

Run ``python -m experiments.emoji_world.sheet FOLDER --steps 4 --guidance 1 --out sheet.png``; ``--accuracy`` reads the
240 held-out prompts in the place of the sheet.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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


@dataclass(frozen=True)
class Sheet:
    """What a contact sheet shows.

    Attributes:
        prompts: Rows of prompts, all of one length.
        side: Pixels of each image's side on the sheet; None: as many as it has.
    """

    prompts: list[list[str]]
    side: int | None = None


def tiled(images: Tensor, columns: int) -> Image.Image:
    """Images (N, 3, H, W) in [0, 1], in rows of ``columns``."""
    rows = [torch.cat(list(part), dim=2) for part in images.split(columns)]
    pixels = (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def open_pipeline(folder: Path) -> Any:
    """A pipeline of the class that its folder names.

    A Stable Diffusion 3 without T5 does not load from its folder alone: diffusers wants to be told of it once more.
    """
    from diffusers import DiffusionPipeline

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    t5 = {name: None for name in ("text_encoder_3", "tokenizer_3") if index.get(name) == [None, None]}
    return DiffusionPipeline.from_pretrained(folder, **t5)


def accuracy(
    folder: Path, sampling: Mapping[str, float], prompts: int | None = None, assets: Path = ASSETS
) -> dict[str, dict[str, float]]:
    """Scene accuracy of the held-out prompts of ``assets`` per category, and over all of them under "all"."""
    from sgool.metrics import SceneReader

    pipeline = open_pipeline(folder)
    rows = held_out_prompts(assets / "prompts")[:prompts]
    images = vanilla_samples(pipeline, [row["prompt"] for row in rows], sampling=sampling)
    result = sample_accuracy(rows, images, SceneReader.from_pretrained(assets / "reader"))
    number = sum(part["n"] for part in result.values())
    return result | {"all": {"n": number, "all": sum(p["n"] * p["all"] for p in result.values()) / number}}


def draw(folder: Path, sampling: Mapping[str, float], file: Path, sheet: Sheet | None = None) -> None:
    """Writes the contact sheet (by default of `sheet_prompts`) as a PNG of 256 colours."""
    sheet = sheet or Sheet(sheet_prompts())
    pipeline = open_pipeline(folder)
    images = vanilla_samples(pipeline, [prompt for row in sheet.prompts for prompt in row], sampling=sampling)
    if sheet.side is not None:
        images = F.interpolate(images, size=sheet.side, mode="area")
    save_small(tiled(images, len(sheet.prompts[0])), file)


def save_small(image: Image.Image, file: Path) -> None:
    """Writes a PNG of 256 colours."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


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
