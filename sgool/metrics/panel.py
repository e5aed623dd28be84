"""All judges of a run at once: scores per image for the records, aggregates for the summary."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.aggregation import MeanMetric

from sgool.metrics.clip_score import ClipScore
from sgool.metrics.reader import SceneReader
from sgool.metrics.scene import SceneAccuracy
from sgool.models.clip import ClipTower
from sgool.types import PromptSeed


class JudgePanel:
    """CLIP scores by named judges, and scene accuracy where prompts come with a scene.

    Args:
        judges: Name -> frozen CLIP; scores are called ``NAME/clip_score``.
        reader: The embedded world's scene reader, or None.
    """

    def __init__(self, judges: Mapping[str, ClipTower], reader: SceneReader | None = None) -> None:
        self._clip = {name: ClipScore(judge) for name, judge in judges.items()}
        self._scene = SceneAccuracy(reader) if reader is not None else None

    @torch.no_grad()
    def score(self, images: Tensor, pairs: Sequence[PromptSeed]) -> list[dict[str, float]]:
        """Per image (B, 3, H, W) in [0, 1] its metrics: name -> value."""
        rows: list[dict[str, float]] = [{} for _ in pairs]
        for name, metric in self._clip.items():
            for row, value in zip(rows, metric.score(images, [p.prompt for p in pairs]).tolist(), strict=True):
                row[f"{name}/clip_score"] = value
        if self._scene is not None:
            scenes = [_scene(pair) for pair in pairs]
            for row, checks in zip(rows, self._scene.score(images, scenes), strict=True):
                if checks:
                    row["scene_accuracy"] = checks.pop("all")
                    row |= {f"scene/{name}": value for name, value in checks.items()}
        return rows


def _scene(pair: PromptSeed) -> Mapping[str, Any] | None:
    """The pair's scene; None where the user's ``scene`` is something else."""
    scene = pair.metadata.get("scene")
    objects = scene.get("objects") if isinstance(scene, Mapping) else None
    real = isinstance(objects, list) and objects and all(isinstance(o, Mapping) and "noun" in o for o in objects)
    return scene if real else None


def aggregate(rows: Sequence[Mapping[str, float]], across_ranks: bool = False) -> dict[str, float]:
    """Mean of every metric over the rows that have it, by torchmetrics.

    Args:
        rows: Metrics of pairs.
        across_ranks: Over the rows of all processes of the process group; each has to call this.
    """
    names = {name for row in rows for name in row}
    if across_ranks:
        everywhere: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everywhere, names)
        names = set().union(*everywhere)
    means = {name: MeanMetric(sync_on_compute=across_ranks).set_dtype(torch.float64) for name in sorted(names)}
    for row in rows:
        for name, value in row.items():
            means[name].update(value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric MeanMetric was called before")
        return {name: float(mean.compute()) for name, mean in means.items()}
