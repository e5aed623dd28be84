"""Metrics of images: judges, how much changed, sets of images, and the scene reader. docs/metrics.md lists them."""

from sgool.metrics.base import ChangeScore, ImageScore, MeanScore, ScoreMetric, TextScore
from sgool.metrics.change import LatentNorm, Lpips, PerceptualDistance, Psnr, Ssim
from sgool.metrics.clip_score import ClipScore
from sgool.metrics.distribution import Distances, set_distances
from sgool.metrics.panel import JudgePanel
from sgool.metrics.preference import PreferenceScore
from sgool.metrics.reader import SceneReader
from sgool.metrics.scene import SceneAccuracy, scene_checks
from sgool.metrics.similarity import Diversity, ImageSimilarity

__all__ = [
    "ChangeScore",
    "ClipScore",
    "Distances",
    "Diversity",
    "ImageScore",
    "ImageSimilarity",
    "JudgePanel",
    "LatentNorm",
    "Lpips",
    "MeanScore",
    "PerceptualDistance",
    "PreferenceScore",
    "Psnr",
    "SceneAccuracy",
    "SceneReader",
    "ScoreMetric",
    "Ssim",
    "TextScore",
    "scene_checks",
    "set_distances",
]
