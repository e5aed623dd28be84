"""Metrics of images: judges, changes from the first image, sets of images, and the scene reader.

docs/metrics.md lists them.

The names below are imported from their modules on first use: `sgool.metrics.options` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgool.config.lazy import lazy_exports

if TYPE_CHECKING:
    from sgool.metrics.base import ChangeScore as ChangeScore
    from sgool.metrics.base import ImageScore as ImageScore
    from sgool.metrics.base import MeanScore as MeanScore
    from sgool.metrics.base import PairScore as PairScore
    from sgool.metrics.base import ScoreMetric as ScoreMetric
    from sgool.metrics.base import TextScore as TextScore
    from sgool.metrics.change import LatentNorm as LatentNorm
    from sgool.metrics.change import Lpips as Lpips
    from sgool.metrics.change import PerceptualDistance as PerceptualDistance
    from sgool.metrics.change import Psnr as Psnr
    from sgool.metrics.change import Ssim as Ssim
    from sgool.metrics.clip_score import ClipScore as ClipScore
    from sgool.metrics.distribution import Distances as Distances
    from sgool.metrics.distribution import set_distances as set_distances
    from sgool.metrics.geneval import GenEval as GenEval
    from sgool.metrics.geneval import ObjectChecker as ObjectChecker
    from sgool.metrics.panel import JudgePanel as JudgePanel
    from sgool.metrics.preference import PreferenceScore as PreferenceScore
    from sgool.metrics.reader import SceneReader as SceneReader
    from sgool.metrics.scene import SceneAccuracy as SceneAccuracy
    from sgool.metrics.scene import scene_checks as scene_checks
    from sgool.metrics.similarity import Diversity as Diversity
    from sgool.metrics.similarity import ImageSimilarity as ImageSimilarity
    from sgool.metrics.vqa import SoftTIFA as SoftTIFA
    from sgool.metrics.vqa import VQAScore as VQAScore

_MODULES = {
    "ChangeScore": "base",
    "ImageScore": "base",
    "MeanScore": "base",
    "ObjectChecker": "geneval",
    "PairScore": "base",
    "ScoreMetric": "base",
    "TextScore": "base",
    "ClipScore": "clip_score",
    "Distances": "distribution",
    "Diversity": "similarity",
    "GenEval": "geneval",
    "ImageSimilarity": "similarity",
    "JudgePanel": "panel",
    "LatentNorm": "change",
    "Lpips": "change",
    "PerceptualDistance": "change",
    "PreferenceScore": "preference",
    "Psnr": "change",
    "SceneAccuracy": "scene",
    "SceneReader": "reader",
    "SoftTIFA": "vqa",
    "Ssim": "change",
    "VQAScore": "vqa",
    "scene_checks": "scene",
    "set_distances": "distribution",
}

__all__ = [
    "ChangeScore",
    "ClipScore",
    "Distances",
    "Diversity",
    "GenEval",
    "ImageScore",
    "ImageSimilarity",
    "JudgePanel",
    "LatentNorm",
    "Lpips",
    "MeanScore",
    "ObjectChecker",
    "PairScore",
    "PerceptualDistance",
    "PreferenceScore",
    "Psnr",
    "SceneAccuracy",
    "SceneReader",
    "ScoreMetric",
    "SoftTIFA",
    "Ssim",
    "TextScore",
    "VQAScore",
    "scene_checks",
    "set_distances",
]

__getattr__ = lazy_exports(__name__, _MODULES)
