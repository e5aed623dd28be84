"""Measures the exported networks against their bars; the model card quotes it.

Run ``python -m experiments.emoji_world.train evaluate``.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from experiments.emoji_world.clip import KINDS, four_way
from experiments.emoji_world.common import images_to_tensor, psnr
from experiments.emoji_world.prompts import CATEGORIES, WORLD
from experiments.emoji_world.scenes import Painted, Painter, held_out_scene, training_scene
from experiments.emoji_world.world import World
from sgool.metrics import SceneReader, scene_checks
from sgool.metrics.scene import STATEMENTS
from sgool.models.clip import ClipTower, load_clip

logger = logging.getLogger(__name__)

SAMPLING = {"num_inference_steps": 50, "guidance_scale": 4.0}
CHECKS = ("objects", "count", "colours", "relation", "background", "all")


def held_out_images(painter: Any, number: int, seed: int, world: World = WORLD) -> tuple[list, Tensor]:
    """Scenes with held-out combinations and their images (N, 3, H, W)."""
    rng = np.random.default_rng(seed)
    scenes = [world.held_out_scene(rng) for _ in range(number)]
    return scenes, images_to_tensor([painter.paint(scene, rng).image for scene in scenes])


@torch.no_grad()
def reconstruction_psnr(vae: Any, painter: Any, number: int, world: World = WORLD) -> dict[str, float]:
    """Mean and 5 % quantile of the autoencoder's PSNR in dB."""
    _, images = held_out_images(painter, number, 101, world)
    values = []
    for part in images.split(50):
        decoded = vae.decode(vae.encode(part * 2 - 1).latent_dist.mean).sample
        values.append(psnr((decoded / 2 + 0.5).clamp(0, 1), part))
    result = torch.cat(values)
    return {"mean": float(result.mean()), "q05": float(result.quantile(0.05))}


@torch.no_grad()
def hard_choices(
    clip: ClipTower,
    painter: Any,
    number: int,
    sample: Callable = held_out_scene,
    *,
    world: World = WORLD,
    kinds: Sequence[str] = KINDS,
    view: Callable[[Painted, int], np.ndarray] = lambda painted, index: painted.image,
) -> dict[str, float]:
    """Accuracy of choosing the right one of four captions for an image, per kind of swapped fact (chance 0.25).

    Args:
        clip: The CLIP.
        painter: Paints scenes.
        number: Images per kind.
        sample: ``sample(rng)`` returns a scene.
        world: Has the captions and what can be swapped.
        kinds: Of swapped facts.
        view: What the CLIP sees of the painted image of a number.
    """
    rng = np.random.default_rng(102)
    result = {}
    for kind in kinds:
        groups: list[list] = []
        while len(groups) < number:
            options = four_way(sample(rng), kind, rng, world.mutate)
            groups += [options] if options is not None else []
        images = images_to_tensor([view(painter.paint(group[0], rng), i) for i, group in enumerate(groups)])
        texts = [world.caption(s, rng, relation=1, colours=1, background=0).text for group in groups for s in group]
        embeds = torch.cat([clip.encode_text(texts[i : i + 200]) for i in range(0, len(texts), 200)])
        scores = torch.einsum("nd,nkd->nk", clip.encode_image(images), embeds.view(number, 4, -1))
        result[kind] = float((scores.argmax(1) == 0).float().mean())
    return result


def reader_accuracy(reader: SceneReader, painter: Any, number: int, world: World = WORLD) -> dict[str, float]:
    """Share of held-out scenes whose objects, counts, colours, relation, place and background are read rightly."""
    scenes, images = held_out_images(painter, number, 103, world)
    rows = []
    for scene, reading in zip(scenes, reader.read(images), strict=True):
        rows.append(scene_checks(world.scene_facts(scene, True, True), reading))
    names = sorted({name for row in rows for name in row})
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


@torch.no_grad()
def vanilla_samples(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    batch_size: int = 24,
    sampling: Mapping[str, float] = SAMPLING,
) -> Tensor:
    """Images (N, 3, H, W), by default with 50 steps and guidance 4; prompt i has seed i, whatever its batch."""
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        output = pipeline(part, generator=generators, output_type="pt", **sampling)
        images.append(output.images.float())
        logger.info("sampled %d of %d prompts", start + len(part), len(prompts))
    return torch.cat(images)


def held_out_prompts(folder: Path) -> list[dict[str, str]]:
    """The rows of ``heldout.csv``, the categories in turn."""
    with (folder / "heldout.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sample_accuracy(
    rows: list[dict], images: Tensor, reader: SceneReader, named: Sequence[str] = (*STATEMENTS, "all")
) -> dict[str, dict[str, float]]:
    """Per category, the share of images that show what the prompt states, and the number of prompts ``n``."""
    checks = [
        scene_checks(json.loads(row["scene"]), reading) for row, reading in zip(rows, reader.read(images), strict=True)
    ]
    result: dict[str, dict[str, float]] = {}
    for category in dict.fromkeys(row["category"] for row in rows):
        own = [check for row, check in zip(rows, checks, strict=True) if row["category"] == category]
        names = [name for name in named if any(name in check for check in own)]
        means = {name: float(np.mean([c[name] for c in own if name in c])) for name in names}
        result[category] = {"n": len(own), **means}
    return result


def evaluate(
    assets: Path, painter: Painter, results: Path, *, number: int = 400, prompts: int | None = None
) -> dict[str, Any]:
    """Measures the exported networks and writes ``metrics.json`` and ``samples.png`` into ``results``.

    Args:
        assets: ``sgool/assets/emoji_world``.
        painter: Paints the held-out scenes.
        results: Folder for the results.
        number: Scenes for each measurement of autoencoder and reader; a quarter of it per kind of hard choice.
        prompts: Of the held-out prompts, how many are sampled (None: all).
    """
    pipeline = StableDiffusionPipeline.from_pretrained(assets)
    metrics: dict[str, Any] = {"vae": reconstruction_psnr(pipeline.vae, painter, number)}
    logger.info("vae %s", metrics["vae"])
    for name, half in (("guide", 0), ("judge", 1)):
        clip = load_clip(str(assets / name))
        seen = partial(training_scene, half=half)
        metrics[name] = {
            "held_out": hard_choices(clip, painter, max(1, number // 4)),
            "seen": hard_choices(clip, painter, max(1, number // 4), seen),
        }
        logger.info("%s %s", name, metrics[name])
    reader = SceneReader.from_pretrained(assets / "reader")
    metrics["reader"] = reader_accuracy(reader, painter, number)
    logger.info("reader %s", metrics["reader"])
    rows = held_out_prompts(assets / "prompts")[:prompts]
    images = vanilla_samples(pipeline, [row["prompt"] for row in rows])
    metrics["samples"] = sample_accuracy(rows, images, reader)
    metrics["settings"] = {"scenes": number, "prompts": len(rows), **SAMPLING}
    metrics["bars"] = bars(metrics)
    results.mkdir(parents=True, exist_ok=True)
    (results / "metrics.json").write_text(json.dumps(rounded(metrics), indent=1) + "\n", encoding="utf-8")
    grid(images[:24]).save(results / "samples.png")
    return metrics


def bars(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Each measured number with a bar: ``{"name", "value", "bar", "met"}``."""
    rows = [("autoencoder, PSNR in dB", metrics["vae"]["mean"], 32.0)]
    for name in ("guide", "judge"):
        rows += [(f"{name}, hard choices: {kind}", value, 0.9) for kind, value in metrics[name]["held_out"].items()]
    rows += [(f"scene reader: {kind}", value, 0.95) for kind, value in metrics["reader"].items() if kind != "all"]
    single, colours = (metrics["samples"].get(name) for name in ("Single objects", "Colours"))
    rows += [("vanilla samples: single object recognised", single["objects"], 0.97)] if single else []
    rows += [("vanilla samples: colour of a single object", colours["colours"], 0.97)] if colours else []
    return as_bars(rows)


def as_bars(rows: Sequence[tuple[str, float, float]]) -> list[dict[str, Any]]:
    """Rows of a name, a value and the bar for it."""
    return [{"name": name, "value": value, "bar": bar, "met": value >= bar} for name, value, bar in rows]


def student_bars(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The student's rows, from what `measure_turbo` wrote: at most so many points below the base, over all prompts."""
    base = next(row["all"]["all"] for name, row in table.items() if name.startswith("base"))
    limits = (("student, 4", 0.04), ("student, 1", 0.15))
    return as_bars([(f"{name}: all that is stated", table[name]["all"]["all"], base - below) for name, below in limits])


def grid(images: Tensor) -> Image.Image:
    """One column per category, for prompts that have the categories in turn."""
    columns = len(CATEGORIES)
    rows = [torch.cat(list(part), dim=2) for part in images.split(columns) if len(part) == columns]
    rows = rows or [torch.cat(list(images), dim=2)]
    pixels = (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def rounded(value: Any) -> Any:
    """The value with every number in it to four places."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
