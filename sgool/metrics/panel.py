"""The panel of all judges of a run: scores of each pair for its record, and means over all pairs for the logs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.aggregation import MeanMetric

from sgool.metrics.base import ChangeScore, ImageScore, MeanScore, PairScore, ScoreMetric, TextScore
from sgool.metrics.change import LatentNorm
from sgool.metrics.clip_score import ClipScore
from sgool.metrics.reader import SceneReader
from sgool.metrics.scene import STATEMENTS, SceneAccuracy, SceneStatement
from sgool.models.clip import ClipTower
from sgool.results.sheets import chosen_frames
from sgool.types import PromptSeed

#: The end of a metric's name if it belongs to a pair's first image.
INITIAL = "_initial"
#: A pair's first latents and its final latents, each (S, C, h, w).
Latents = tuple[Tensor, Tensor]
#: Metrics that have a value for a pair's first image too.
_OF_ONE_IMAGE = (TextScore, PairScore, ImageScore)


class JudgePanel(nn.Module):
    """Scores images by named judges, and by scene accuracy if prompts come with a scene.

    `judge` returns the rows of records and adds their numbers to the means. `named_metrics` returns the means as
    torchmetrics metrics, which a LightningModule that has the panel as an attribute can log. The networks are frozen
    and no part of the panel's state, so checkpoints only hold sums.

    Args:
        judges: Name -> metrics of the judge, called ``NAME/KEY`` in records. A CLIP may stand in place of its CLIP
            score.
        reader: The embedded world's scene reader, or None; of a video it reads the middle frame.
        frames: How many frames of a video are judged, at equal distances; None: all.

    Raises:
        ValueError: Two metrics have the same name.
    """

    def __init__(
        self,
        judges: Mapping[str, ClipTower | MeanScore | Sequence[MeanScore]],
        reader: SceneReader | None = None,
        frames: int | None = None,
    ) -> None:
        super().__init__()
        self._frames = frames
        # Keys are encoded: the name of a module must not have a dot, but that of a judge may.
        self.metrics = nn.ModuleDict()
        self._keys: dict[str, str] = {}
        self._judges: list[tuple[str, str]] = []
        for name, judge in judges.items():
            judge = ClipScore(judge) if isinstance(judge, ClipTower) else judge
            for metric in [judge] if isinstance(judge, MeanScore) else judge:
                self._judges.append((name, f"{name}/{metric.key}"))
                self._add(f"{name}/{metric.key}", metric, on_first=isinstance(metric, _OF_ONE_IMAGE))
        self._has_scenes = reader is not None
        if reader is not None:
            self._add(SceneAccuracy.key, SceneAccuracy(reader), on_first=True)
            for statement in STATEMENTS:
                self._add(f"scene/{statement}", SceneStatement(statement), on_first=True)

    def _add(self, name: str, metric: ScoreMetric, on_first: bool) -> None:
        for full_name, own in [(name, metric), *([(name + INITIAL, metric.fresh_copy())] if on_first else [])]:
            if full_name in self._keys:
                raise ValueError(f"expected metrics of different names, got two called {full_name!r}")
            key = full_name.replace("%", "%25").replace(".", "%2E")
            self._keys[full_name], self.metrics[key] = key, own

    def named_metrics(self) -> dict[str, ScoreMetric]:
        """Returns, by name in records, the metrics whose ``compute()`` is the mean over all pairs since `reset`.

        The names do not depend on what was judged, so they are the same on all ranks. The mean of a metric that has
        counted no image is NaN.
        """
        return {name: self._metric(name) for name in self._keys}

    def _metric(self, name: str) -> Any:
        return self.metrics[self._keys[name]]

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """Returns each metric's description for reports (`ScoreMetric.describe`), which also holds for first images.

        `sgool.results.RunFolder.describe_metrics` takes them.
        """
        return {name: self._metric(name).describe() for name in self._keys if not name.endswith(INITIAL)}

    def fingerprints(self) -> dict[str, list[str]]:
        """Returns the sorted fingerprints of each judge's networks; the scene reader is called ``scene_accuracy``.

        `sgool.results.RunFolder.record_judges` takes them.
        """
        found: dict[str, set[str]] = {}
        named = [*self._judges, *([(SceneAccuracy.key, SceneAccuracy.key)] if self._has_scenes else [])]
        for judge, name in named:
            found.setdefault(judge, set()).update(self._metric(name).fingerprints())
        return {judge: sorted(prints) for judge, prints in found.items()}

    def reset(self) -> None:
        """Resets all means."""
        for metric in self.named_metrics().values():
            metric.reset()

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns a sentence for each pair whose columns lack what a judge needs, each sentence once."""
        metrics = [self._metric(name) for _, name in self._judges]
        found = [text for metric in metrics if isinstance(metric, PairScore) for text in metric.problems(pairs)]
        return list(dict.fromkeys(found))

    def truncated(self, prompts: Sequence[str]) -> dict[str, list[str | None]]:
        """Returns for each judge that reads prompts, and each prompt, the text that it does not read, or None."""
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
            first: The pairs' first images (B, 3, H, W) in [0, 1], or videos (B, 3, F, H, W). None: only the final
                images are scored, without metrics that compare both.
            final: The pairs' final images, of the same shape.
            pairs: The B pairs.
            latents: Each pair's first and final latents; None: there is no latent norm.
            counted: Whether each pair counts in the means, for example because it ended well; None: all count. Every
                pair has a row.

        Returns:
            For each pair a row for its record, name -> value. Names of the first image's metrics end in ``_initial``.
            Values that are not defined for an image (the PSNR of equal images, scenes of prompts without one) are left
            out. ``NAME/truncated`` is how many characters of the prompt a judge did not read, if any.

        Raises:
            ValueError: The numbers of images, prompts or latents differ.
        """
        first, final = None if first is None else self._looked_at(first), self._looked_at(final)
        rows: list[dict[str, float]] = [{} for _ in pairs]
        before = self.state_dict()
        try:
            if first is not None:
                self._score(rows, INITIAL, first, None, None, pairs, counted)
            self._score(rows, "", final, first, latents, pairs, counted)
        except BaseException:
            # The caller may try again, for example with fewer pairs at once, and nothing may count twice.
            self.load_state_dict(before)
            raise
        return rows

    def _looked_at(self, images: Tensor) -> Tensor:
        """Returns images as they are, and of videos the frames that are judged."""
        return images[:, :, chosen_frames(images.shape[2], self._frames)] if images.ndim == 5 else images

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
        """Adds the metrics of the first or of the final images to the rows."""
        prompts = [pair.prompt for pair in pairs]
        for judge, name in self._judges:
            metric = self._metric(name)
            cut = metric.truncated(prompts) if not suffix and isinstance(metric, TextScore) else []
            for row, text in zip(rows, cut, strict=False):
                row |= {f"{judge}/truncated": float(len(text))} if text else {}
            given = _given(metric, images, pairs, first, latents)
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
        """Adds the scene reader's checks to the rows."""
        accuracy = self._metric(SceneAccuracy.key + suffix)
        images = images[:, :, images.shape[2] // 2] if images.ndim == 5 else images
        accuracy.update(images, scenes, counted=counted)
        for statement in STATEMENTS:
            self._metric(f"scene/{statement}{suffix}").update(accuracy.scores, counted=counted)
        for row, checks in zip(rows, accuracy.scores, strict=True):
            if checks:
                row[SceneAccuracy.key + suffix] = checks["all"]
                row |= {f"scene/{name}{suffix}": value for name, value in checks.items() if name != "all"}


def _given(
    metric: MeanScore,
    images: Tensor,
    pairs: Sequence[PromptSeed],
    first: Tensor | None,
    latents: Sequence[Latents] | None,
) -> tuple[Any, ...] | None:
    """Returns the arguments of the metric's score, or None if one of them is missing."""
    if isinstance(metric, TextScore):
        return images, [pair.prompt for pair in pairs]
    if isinstance(metric, PairScore):
        return images, pairs
    if isinstance(metric, ImageScore):
        return (images,)
    if isinstance(metric, ChangeScore) and first is not None:
        return images, first
    if isinstance(metric, LatentNorm) and first is not None and latents is not None:
        return [kept for _, kept in latents], [before for before, _ in latents]
    return None


def _scene(pair: PromptSeed) -> Mapping[str, Any] | None:
    """Returns the pair's scene, or None if its ``scene`` is something else of the user's."""
    scene = pair.metadata.get("scene")
    objects = scene.get("objects") if isinstance(scene, Mapping) else None
    valid = isinstance(objects, list) and objects and all(isinstance(o, Mapping) and "noun" in o for o in objects)
    return scene if valid else None


def aggregate(rows: Sequence[Mapping[str, float]], across_ranks: bool = False) -> dict[str, float]:
    """Returns the mean of every metric over the rows that have it, by torchmetrics.

    Args:
        rows: Rows of pairs, name -> value.
        across_ranks: Whether the rows of all processes of the process group count; each of them must call this.
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
