"""Measures the exported networks of the emoji scenes against their bars; the model card quotes it.

Run ``python -m experiments.emoji_scenes.train evaluate measure_turbo``.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.emoji_scenes.captions import caption
from experiments.emoji_scenes.clip import subject_crop
from experiments.emoji_scenes.export import SALIENCY
from experiments.emoji_scenes.prompts import WORLD
from experiments.emoji_scenes.scenes import Painter, Scene, held_out_scene, training_scene
from experiments.emoji_scenes.sheet import contact_sheet
from experiments.emoji_world import turbo
from experiments.emoji_world.captions import Caption
from experiments.emoji_world.evaluate import (
    as_bars,
    grid,
    hard_choices,
    held_out_prompts,
    reader_accuracy,
    reconstruction_psnr,
    rounded,
    sample_accuracy,
    vanilla_samples,
)
from experiments.emoji_world.scenes import Painted
from experiments.emoji_world.sheet import accuracy, open_pipeline, save_small
from experiments.saliency_emoji.evaluate import MEASURES, detector_of, measure
from experiments.saliency_emoji.scenes import painted_scenes
from experiments.saliency_emoji.train import BACKBONE
from sgool.metrics import SceneReader
from sgool.models.clip import ClipTower, load_clip
from sgool.saliency.transalnet import load_transalnet

logger = logging.getLogger(__name__)

#: Without T5's zeros, which makes sampling cheaper.
NO_T5 = {"max_sequence_length": 0}
SAMPLING = {"num_inference_steps": 28, "guidance_scale": 4.0, **NO_T5}
#: What can be told from a crop around one subject.
CROP_KINDS = ("colour", "object")
#: Detectors that know nothing of this world, to compare with: its name -> its overrides.
_PLAIN_DETECTORS = {"center": ["saliency=center"], "spectral_residual": ["saliency=spectral_residual"]}


def clip_choices(clip: ClipTower, painter: Painter, number: int, half: int) -> dict[str, dict[str, float]]:
    """Accuracy of hard choices, per kind.

    Args:
        clip: Guide or judge.
        painter: Paints the scenes.
        number: Images per kind.
        half: The half that the CLIP was trained on.

    Returns:
        ``crops``: crops around the one small subject on a busy ground, of held-out scenes; ``same``: the same images as
        wholes, with the same captions, which say nothing of the place; ``whole``: whole held-out scenes of all layouts,
        captions with place or relation; ``seen``: the same of scenes that were trained on.
    """
    one = partial(held_out_scene, busy=1.0, weights=(1, 0, 0, 0))
    unplaced = replace(WORLD, caption=_without_place, mutate=_subject_changed)
    subjects = partial(hard_choices, clip, painter, number, one, world=unplaced, kinds=CROP_KINDS)
    return {
        "crops": subjects(view=_crop),
        "same": subjects(),
        "whole": hard_choices(clip, painter, number, held_out_scene, world=WORLD),
        "seen": hard_choices(clip, painter, number, partial(training_scene, half=half), world=WORLD),
    }


def _without_place(scene: Scene, rng: np.random.Generator, **kwargs: float) -> Caption:
    return caption(replace(scene, place=None), rng, **kwargs)


def _subject_changed(scene: Scene, kind: str, rng: np.random.Generator) -> Scene | None:
    """Swaps nothing that a caption without the place would not tell."""
    return WORLD.mutate(scene, kind, rng) if kind in CROP_KINDS else None


def _crop(painted: Painted, index: int) -> np.ndarray:
    return subject_crop(painted, 0, np.random.default_rng([104, index]))


def saliency_scores(weights: Path, painter: Painter, number: int) -> dict[str, dict[str, float]]:
    """Measures of the TranSalNet's maps, and of detectors that were not trained, against the subjects' masks.

    On held-out scenes with busy grounds.
    """
    rng = np.random.default_rng(105)
    _, images, masks = painted_scenes(painter, rng, number, partial(held_out_scene, busy=1.0))
    detectors: dict[str, Any] = {"transalnet": load_transalnet(str(weights), BACKBONE, "rgb")}
    detectors |= {name: detector_of(overrides) for name, overrides in _PLAIN_DETECTORS.items()}
    result = {}
    for name, detector in detectors.items():
        means = measure(detector, images, masks, []).mean(0)
        result[name] = dict(zip(MEASURES, means.tolist(), strict=True))
    return result


def evaluate(
    assets: Path, painter: Painter, results: Path, *, number: int = 400, prompts: int | None = None
) -> dict[str, Any]:
    """Measures the exported networks and writes ``metrics.json`` and ``samples.png`` into ``results``.

    Args:
        assets: ``sgool/assets/emoji_scenes``.
        painter: Paints the held-out scenes.
        results: Folder for the results.
        number: Scenes for each measurement of autoencoder and reader; a quarter of it per kind of hard choice and for
            the saliency.
        prompts: Of the held-out prompts, how many are sampled (None: all).
    """
    quarter = max(1, number // 4)
    pipeline = open_pipeline(assets)
    metrics: dict[str, Any] = {"vae": reconstruction_psnr(pipeline.vae, painter, number, WORLD)}
    logger.info("vae %s", metrics["vae"])
    for name, half in (("guide", 0), ("judge", 1)):
        metrics[name] = clip_choices(load_clip(str(assets / name)), painter, quarter, half)
        logger.info("%s %s", name, metrics[name])
    reader = SceneReader.from_pretrained(assets / "reader")
    metrics["reader"] = reader_accuracy(reader, painter, number, WORLD)
    logger.info("reader %s", metrics["reader"])
    metrics["saliency"] = saliency_scores(assets / SALIENCY, painter, quarter)
    logger.info("saliency %s", metrics["saliency"])
    rows = held_out_prompts(assets / "prompts")[:prompts]
    images = vanilla_samples(pipeline, [row["prompt"] for row in rows], sampling=SAMPLING)
    metrics["samples"] = sample_accuracy(rows, images, reader)
    metrics["settings"] = {"scenes": number, "prompts": len(rows), **SAMPLING}
    metrics["bars"] = bars(metrics)
    results.mkdir(parents=True, exist_ok=True)
    (results / "metrics.json").write_text(json.dumps(rounded(metrics), indent=1) + "\n", encoding="utf-8")
    save_small(grid(images[:24]), results / "samples.png")
    return metrics


def bars(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Each measured number with a bar: ``{"name", "value", "bar", "met"}``. The student's bar is in `student_bars`."""
    rows = [("autoencoder, PSNR in dB", metrics["vae"]["mean"], 28.0)]
    for name in ("guide", "judge"):
        rows += [(f"{name}, hard choices in crops: {kind}", v, 0.9) for kind, v in metrics[name]["crops"].items()]
    rows += [(f"scene reader: {kind}", value, 0.95) for kind, value in metrics["reader"].items() if kind != "all"]
    return as_bars(rows)


def student_bars(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The student's rows, as `bars`, from what `measure_turbo` returned."""
    single = table["student, 4"].get("Single objects")
    if single is None:
        return []
    return as_bars([("student, 4 steps: single subject recognised", single["objects"], 0.85)])


def measure_turbo(assets: Path, student: Path, results: Path, prompts: int | None = None) -> dict[str, Any]:
    """Accuracy of base and student per category; ``turbo.json`` and the student's contact sheet in ``results``.

    One row is the student in 4 steps as a call without ``max_sequence_length=0`` has it, with zeros for T5's tokens.
    """
    table = turbo.measure(
        assets, student, results, prompts, assets=assets, sampling=SAMPLING, extra=NO_T5, sheet=contact_sheet()
    )
    four = {"num_inference_steps": 4, "guidance_scale": 1.0}
    table["student, 4, with T5's zeros"] = accuracy(student, four, prompts, assets)
    (results / "turbo.json").write_text(json.dumps(rounded(table), indent=1) + "\n", encoding="utf-8")
    return table
