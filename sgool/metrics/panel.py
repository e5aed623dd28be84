"""All judges of a run at once: a row of scores per pair for the records, and the means over all pairs for the logs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.aggregation import MeanMetric

from sgool.metrics.base import ChangeScore, ImageScore, MeanScore, ScoreMetric, TextScore
from sgool.metrics.change import LatentNorm
from sgool.metrics.clip_score import ClipScore
from sgool.metrics.reader import SceneReader
from sgool.metrics.scene import STATEMENTS, SceneAccuracy, SceneStatement
from sgool.models.clip import ClipTower
from sgool.types import PromptSeed

#: The end of a metric's name where it is that of a pair's first image.
INITIAL = "_initial"
#: A pair's first latents and those that were kept, each (S, C, h, w).
Latents = tuple[Tensor, Tensor]


class JudgePanel(nn.Module):
    """Scores by named judges, and scene accuracy where prompts come with a scene.

    `judge` gives the rows of records and adds their numbers to the means; `named_metrics` gives the means as
    torchmetrics metrics, which a LightningModule that has the panel as an attribute can log. The networks are frozen
    and no part of the panel's state: checkpoints hold sums alone.

    Args:
        judges: Name -> its metrics, called ``NAME/KEY`` in records; a CLIP stands for its CLIP score.
        reader: The embedded world's scene reader, or None.

    Raises:
        ValueError: Two metrics of one name.
    """

    def __init__(
        self, judges: Mapping[str, ClipTower | Sequence[MeanScore]], reader: SceneReader | None = None
    ) -> None:
        super().__init__()
        #: A module's name must not have a dot, which a judge's may have.
        self.metrics = nn.ModuleDict()
        self._keys: dict[str, str] = {}
        self._judges: list[tuple[str, str]] = []
        for name, judge in judges.items():
            for metric in [ClipScore(judge)] if isinstance(judge, ClipTower) else judge:
                self._judges.append((name, f"{name}/{metric.key}"))
                self._add(f"{name}/{metric.key}", metric, on_first=isinstance(metric, (TextScore, ImageScore)))
        self._has_scenes = reader is not None
        if reader is not None:
            self._add(SceneAccuracy.key, SceneAccuracy(reader), on_first=True)
            for statement in STATEMENTS:
                self._add(f"scene/{statement}", SceneStatement(statement), on_first=True)

    def _add(self, name: str, metric: ScoreMetric, on_first: bool) -> None:
        for full_name, own in [(name, metric), *([(name + INITIAL, metric.twin())] if on_first else [])]:
            if full_name in self._keys:
                raise ValueError(f"expected metrics of different names, got two called {full_name!r}")
            key = full_name.replace("%", "%25").replace(".", "%2E")
            self._keys[full_name], self.metrics[key] = key, own

    def named_metrics(self) -> dict[str, ScoreMetric]:
        """Name as in records -> the metric whose ``compute()`` is the mean over all pairs judged since `reset`.

        The names do not depend on what was judged: all ranks have the same. A metric that counted no image gives NaN.
        """
        return {name: self._metric(name) for name in self._keys}

    def _metric(self, name: str) -> Any:
        return self.metrics[self._keys[name]]

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """Name -> what a report needs to show the metric (`ScoreMetric.describe`); those of first images are as these.

        For `sgool.results.RunFolder.describe_metrics`.
        """
        return {name: self._metric(name).describe() for name in self._keys if not name.endswith(INITIAL)}

    def fingerprints(self) -> dict[str, list[str]]:
        """Judge -> fingerprints of its networks, sorted; ``scene_accuracy`` stands for the scene reader's.

        For `sgool.results.RunFolder.record_judges`.
        """
        found: dict[str, set[str]] = {}
        named = [*self._judges, *([(SceneAccuracy.key, SceneAccuracy.key)] if self._has_scenes else [])]
        for judge, name in named:
            found.setdefault(judge, set()).update(self._metric(name).fingerprints())
        return {judge: sorted(prints) for judge, prints in found.items()}

    def reset(self) -> None:
        """Begins all means anew."""
        for metric in self.named_metrics().values():
            metric.reset()

    def truncated(self, prompts: Sequence[str]) -> dict[str, list[str | None]]:
        """Judge -> per prompt the text that it does not read, or None; judges that read prompts alone."""
        metrics = {judge: self._metric(name) for judge, name in self._judges}
        return {judge: metric.truncated(prompts) for judge, metric in metrics.items() if isinstance(metric, TextScore)}

    @torch.no_grad()
    def judge(
        self,
        first: Tensor | None,
        final: Tensor,
        pairs: Sequence[PromptSeed],
        latents: Sequence[Latents] | None = None,
        counted: Sequence[bool] | None = None,
    ) -> list[dict[str, float]]:
        """Scores the images of B pairs, and adds the scores to the means.

        Args:
            first: The pairs' first images (B, 3, H, W) in [0, 1]. None: only the final ones are scored, without what
                compares them with the first ones.
            final: The images that were kept, of the same shape.
            pairs: As many.
            latents: Each pair's first and kept latents; None: not known, there is no latent norm.
            counted: Which pairs count in the means, for example those that ended well; None: all. Rows are for all.

        Returns:
            Per pair a row for its record, name -> value. Names of the first image's end in ``_initial``. What is not
            defined for an image (the PSNR of equal images, scenes of prompts without one) is left out.
            ``NAME/truncated`` is how many characters of the prompt a judge did not read, where it did not read all.

        Raises:
            ValueError: Numbers of images, prompts or latents that differ.
        """
        rows: list[dict[str, float]] = [{} for _ in pairs]
        before = self.state_dict()
        try:
            if first is not None:
                self._score(rows, INITIAL, first, None, None, pairs, counted)
            self._score(rows, "", final, first, latents, pairs, counted)
        except BaseException:
            # The caller may try again, for example with fewer pairs at once: nothing may count twice.
            self.load_state_dict(before)
            raise
        return rows

    def _score(
        self,
        rows: list[dict[str, float]],
        suffix: str,
        images: Tensor,
        first: Tensor | None,
        latents: Sequence[Latents] | None,
        pairs: Sequence[PromptSeed],
        counted: Sequence[bool] | None,
    ) -> None:
        """Adds the metrics of one set of images to the rows."""
        prompts = [pair.prompt for pair in pairs]
        for judge, name in self._judges:
            metric = self._metric(name)
            cut = metric.truncated(prompts) if not suffix and isinstance(metric, TextScore) else []
            for row, text in zip(rows, cut, strict=False):
                row |= {f"{judge}/truncated": float(len(text))} if text else {}
            given = _given(metric, images, prompts, first, latents)
            if given is not None:
                scorer = self._metric(name + suffix)
                scorer.update(*given, counted=counted)
                for row, value in zip(rows, scorer.scores.tolist(), strict=True):
                    row |= {name + suffix: value} if abs(value) != float("inf") else {}
        if self._has_scenes:
            self._read(rows, suffix, images, [_scene(pair) for pair in pairs], counted)

    def _read(
        self,
        rows: list[dict[str, float]],
        suffix: str,
        images: Tensor,
        scenes: Sequence[Mapping[str, Any] | None],
        counted: Sequence[bool] | None,
    ) -> None:
        """Adds what the scene reader says to the rows."""
        accuracy = self._metric(SceneAccuracy.key + suffix)
        accuracy.update(images, scenes, counted=counted)
        for statement in STATEMENTS:
            self._metric(f"scene/{statement}{suffix}").update(accuracy.scores, counted=counted)
        for row, checks in zip(rows, accuracy.scores, strict=True):
            if checks:
                row[SceneAccuracy.key + suffix] = checks["all"]
                row |= {f"scene/{name}{suffix}": value for name, value in checks.items() if name != "all"}


def _given(
    metric: MeanScore, images: Tensor, prompts: Sequence[str], first: Tensor | None, latents: Sequence[Latents] | None
) -> tuple[Any, ...] | None:
    """What the metric scores, or None where something of it is not there."""
    if isinstance(metric, TextScore):
        return images, prompts
    if isinstance(metric, ImageScore):
        return (images,)
    if isinstance(metric, ChangeScore) and first is not None:
        return images, first
    if isinstance(metric, LatentNorm) and first is not None and latents is not None:
        return [kept for _, kept in latents], [began for began, _ in latents]
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
