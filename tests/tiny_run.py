"""Overrides of small whole runs."""

from __future__ import annotations

from pathlib import Path


def tiny_overrides(pipeline: Path, clip: Path, prompts: Path, judge: Path | None = None) -> list[str]:
    """Four updates of two denoising steps on the tiny networks; without a run folder, methods and a logger.

    The guide judges too, unless there is another judge.
    """
    return [
        f"models.path={pipeline}",
        f"models.guide={clip}",
        f"models.judges={{judge: {judge or clip}}}",
        "models.scene_reader=null",
        "models.device=cpu",
        f"data.prompts={prompts}",
        "sampler.num_inference_steps=2",
        "optimization.num_optimization_steps=4",
        "objective.crops.num=2",
        "trainer.precision=32-true",
        "trainer.threads=1",
    ]
