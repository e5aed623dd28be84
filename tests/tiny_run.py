"""Overrides of small whole runs."""

from __future__ import annotations

from pathlib import Path


def tiny_overrides(pipeline: Path, clip: Path, prompts: Path) -> list[str]:
    """Four updates of two denoising steps on the tiny networks; without a run folder, methods and a logger."""
    return [
        f"models.path={pipeline}",
        f"models.guide={clip}",
        f"models.judges={{judge: {clip}}}",
        "models.scene_reader=null",
        "models.device=cpu",
        f"data.prompts={prompts}",
        "sampler.num_inference_steps=2",
        "optimization.num_optimization_steps=4",
        "objective.crops.num=2",
        "trainer.precision=32-true",
        "trainer.threads=1",
    ]
