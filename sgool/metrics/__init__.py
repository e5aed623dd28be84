"""Metrics of images: judges and the scene reader."""

from sgool.metrics.clip_score import ClipScore
from sgool.metrics.panel import JudgePanel
from sgool.metrics.reader import SceneReader
from sgool.metrics.scene import SceneAccuracy, scene_checks

__all__ = ["ClipScore", "JudgePanel", "SceneAccuracy", "SceneReader", "scene_checks"]
