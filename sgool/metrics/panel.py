"""All judges of a run at once: scores per image for the records, aggregates for the summary."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.aggregation import MeanMetric

from sgool.metrics.base import ChangeScore, ImageScore, MeanScore, TextScore
from sgool.metrics.change import LatentNorm
from sgool.metrics.clip_score import ClipScore
from sgool.metrics.reader import SceneReader
from sgool.metrics.scene import SceneAccuracy
from sgool.models.clip import ClipTower
from sgool.types import PromptSeed


@dataclass(frozen=True)
class Before:
    """What pairs began with, for the metrics of how much changed.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        latents: A pair's first latents and those that were kept, each (S, C, h, w); None: not known.
    """

    images: Tensor
    latents: Sequence[tuple[Tensor, Tensor]] | None = None


class JudgePanel:
    """Scores by named judges, and scene accuracy where prompts come with a scene.

    Args:
        judges: Name -> its metrics, called ``NAME/KEY`` in records; a CLIP stands for its CLIP score.
        reader: The embedded world's scene reader, or None.
    """

    def __init__(
        self, judges: Mapping[str, ClipTower | Sequence[MeanScore]], reader: SceneReader | None = None
    ) -> None:
        self._judges = {
            name: [ClipScore(judge)] if isinstance(judge, ClipTower) else list(judge) for name, judge in judges.items()
        }
        self._scene = SceneAccuracy(reader) if reader is not None else None

    def truncated(self, prompts: Sequence[str]) -> dict[str, list[str | None]]:
        """Judge -> per prompt the text that it does not read, or None; judges that read prompts alone."""
        metrics = {name: metric for name, judge in self._judges.items() for metric in judge}
        return {name: metric.truncated(prompts) for name, metric in metrics.items() if isinstance(metric, TextScore)}

    @torch.no_grad()
    def score(
        self, images: Tensor, pairs: Sequence[PromptSeed], before: Before | None = None
    ) -> list[dict[str, float]]:
        """Per image its metrics: name -> value; what is infinite (the PSNR of equal images) is left out.

        Final images whose prompt a judge does not read to its end have ``NAME/truncated``, the characters it lost.

        Args:
            images: (B, 3, H, W) in [0, 1].
            pairs: As many.
            before: What they began with; None for first images, which have changed in nothing.
        """
        rows: list[dict[str, float]] = [{} for _ in pairs]
        prompts = [pair.prompt for pair in pairs]
        for name, metric in ((name, metric) for name, judge in self._judges.items() for metric in judge):
            scores = _scores(metric, images, prompts, before)
            cut = metric.truncated(prompts) if before is not None and isinstance(metric, TextScore) else []
            for row, text in zip(rows, cut, strict=False):
                row |= {f"{name}/truncated": float(len(text))} if text else {}
            if scores is not None:
                for row, value in zip(rows, scores.tolist(), strict=True):
                    row |= {f"{name}/{metric.key}": value} if abs(value) != float("inf") else {}
        if self._scene is not None:
            scenes = [_scene(pair) for pair in pairs]
            for row, checks in zip(rows, self._scene.score(images, scenes), strict=True):
                if checks:
                    row["scene_accuracy"] = checks.pop("all")
                    row |= {f"scene/{name}": value for name, value in checks.items()}
        return rows


def _scores(metric: MeanScore, images: Tensor, prompts: Sequence[str], before: Before | None) -> Tensor | None:
    """(B,), or None where the metric lacks something."""
    if isinstance(metric, TextScore):
        return metric.score(images, prompts)
    if isinstance(metric, ImageScore):
        return metric.score(images)
    if before is not None and isinstance(metric, ChangeScore):
        return metric.score(images, before.images)
    if before is not None and before.latents is not None and isinstance(metric, LatentNorm):
        return metric.score([kept for _, kept in before.latents], [first for first, _ in before.latents])
    return None


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
