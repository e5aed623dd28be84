"""Measures every detector on embedded scenes with known masks: ``python -m experiments.saliency_emoji.evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.emoji_world.captions import caption
from experiments.emoji_world.fetch import find_emoji
from experiments.emoji_world.scenes import Painter, Scene, held_out_scene
from experiments.saliency_emoji.scenes import density, painted_scenes
from sgool.config.paths import home_path
from sgool.errors import SgoolError
from sgool.models.networks import Networks
from sgool.run.config import load_config, to_plain
from sgool.saliency import BindableDetector, GradCam, SaliencyDetector, build_detector
from sgool.saliency.metrics import auc_judd, cc, kl, nss, sim
from sgool.types import PromptSeed

HERE = Path(__file__).resolve().parent
SEED = 20
#: Row of the table -> overrides of the configuration.
ROWS: dict[str, list[str]] = {
    "center": ["saliency=center"],
    "fixed (the middle quarter)": ["saliency=fixed"],
    "spectral_residual": ["saliency=spectral_residual"],
    "spectral_residual, the paper's scale": [
        "saliency=spectral_residual",
        "saliency.detector.scales=[64]",
        "saliency.detector.blur_sigma=0.04",
    ],
    "grad_cam": ["saliency=grad_cam"],
    "grad_cam_pp": ["saliency=grad_cam_pp"],
    "transalnet_emoji": ["saliency=transalnet_emoji"],
}
MEASURES = ("AUC-Judd", "NSS", "CC", "SIM", "KL")


def measure(detector: SaliencyDetector, images: Tensor, masks: Tensor, pairs: Sequence[PromptSeed]) -> np.ndarray:
    """(B, 5): the measures of each image; objects' pixels (opacity above a half) stand for fixations."""
    bound = detector.bind(pairs) if isinstance(detector, BindableDetector) else detector
    with torch.no_grad():
        maps = bound(images)
    wanted = density(masks)
    rows = []
    for saliency, mask, target in zip(maps[:, 0], masks[:, 0], wanted[:, 0], strict=True):
        inside = mask > 0.5
        rows.append(
            [auc_judd(saliency, inside), nss(saliency, inside)] + [score(saliency, target) for score in (cc, sim, kl)]
        )
    return np.array(rows)


def named_object(detector: GradCam, painter: Painter, number: int) -> int:
    """In how many of ``number`` scenes with two objects the map for one noun is higher on that noun's object."""
    rng, hits = np.random.default_rng([SEED, 1]), 0
    for index in range(number):
        scene = held_out_scene(rng, weights=(0, 1, 1, 0, 0, 0))
        painted = painter.paint(scene, rng)
        image = torch.from_numpy(painted.image).permute(2, 0, 1)[None].float() / 255
        noun = scene.objects[index % 2].noun
        saliency = detector.bind([PromptSeed("", metadata={"noun": noun})])(image)[0, 0].numpy()
        own, other = ((saliency * mask).sum() / mask.sum() for mask in painted.masks[[index % 2, 1 - index % 2]])
        hits += bool(own > other)
    return hits


def table(results: Mapping[str, np.ndarray]) -> str:
    """Markdown: mean and standard error over scenes."""
    lines = [f"| detector | {' | '.join(MEASURES)} |", f"|---{'|---:' * len(MEASURES)}|"]
    for name, values in results.items():
        errors = values.std(0, ddof=1) / np.sqrt(len(values))
        cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in zip(values.mean(0), errors, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def detector_of(overrides: Sequence[str]) -> SaliencyDetector:
    """The detector of the shipped configuration, on the CPU."""
    config = to_plain(load_config([*overrides, "models.device=cpu"]))
    return build_detector(config["saliency"]["detector"], Networks(config["models"]))


def layer_rows(
    painter: Painter, images: Tensor, masks: Tensor, pairs: Sequence[PromptSeed]
) -> dict[str, dict[str, dict[str, float]]]:
    """Layer -> detector -> correlation with the density, and number of scenes higher on the named object."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        rows[layer] = {}
        for name in ("grad_cam", "grad_cam_pp"):
            overrides = [f"saliency={name}", f"saliency.detector.layer={layer}"]
            correlation = measure(detector_of(overrides), images, masks, pairs)[:, MEASURES.index("CC")].mean()
            detector = detector_of([*overrides, "saliency.detector.query='a {noun}'"])
            assert isinstance(detector, GradCam)
            hits = named_object(detector, painter, len(images))
            rows[layer][name] = {"CC": round(float(correlation), 4), "named": hits}
    return rows


def layer_table(rows: Mapping[str, Mapping[str, Mapping[str, float]]], number: int) -> str:
    """Markdown."""
    lines = [f"| layer | grad_cam: CC | named object, of {number} | grad_cam_pp: CC | named object, of {number} |"]
    lines.append("|---|---:|---:|---:|---:|")
    for layer, row in rows.items():
        cells = [text for values in row.values() for text in (f"{values['CC']:.3f}", f"{values['named']:.0f}")]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def evaluate(painter: Painter, number: int, results: Path) -> str:
    """Writes ``metrics.json`` and returns both tables in Markdown."""
    rng = np.random.default_rng(SEED)
    scenes, images, masks = painted_scenes(painter, rng, number, held_out_scene)
    pairs = [_pair(scene, rng) for scene in scenes]
    values = {name: measure(detector_of(overrides), images, masks, pairs) for name, overrides in ROWS.items()}
    layers = layer_rows(painter, images, masks, pairs)
    results.mkdir(parents=True, exist_ok=True)
    summary = {
        "scenes": number,
        "mean": {name: dict(zip(MEASURES, v.mean(0).round(4).tolist(), strict=True)) for name, v in values.items()},
        "layers": layers,
    }
    (results / "metrics.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return f"{table(values)}\n\n{layer_table(layers, number)}"


def _pair(scene: Scene, rng: np.random.Generator) -> PromptSeed:
    return PromptSeed(caption(scene, rng).text)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one paragraph for what a user can mend."""
    parser = argparse.ArgumentParser(prog="python -m experiments.saliency_emoji.evaluate", description=__doc__)
    parser.add_argument("--emoji", type=home_path, required=True, help="an unpacked emoji-datasource-google")
    parser.add_argument("--number", type=int, default=240, help="scenes")
    parser.add_argument("--results", type=home_path, default=HERE / "results")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        print(evaluate(Painter(find_emoji(arguments.emoji)), arguments.number, arguments.results))
    except SgoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
