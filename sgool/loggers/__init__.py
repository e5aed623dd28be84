"""Lightning loggers of a run, one set per method: CSV curves, or a W&B run grouped by the run's name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sgool.methods import PairResult


def build_loggers(options: Mapping[str, Any], *, run_dir: Path, name: str, method: str, config: Any) -> list[Any]:
    """The loggers of one method.

    Args:
        options: ``name``: csv, wandb or none; for W&B ``mode``, ``project``, ``entity``.
        run_dir: The run folder; curves go to its ``logs``, W&B's files to its ``wandb``.
        name: Of the run; W&B's group.
        method: W&B's job type.
        config: Plain configuration, shown by W&B.
    """
    if options["name"] == "none":
        return []
    from lightning.pytorch.loggers import CSVLogger, WandbLogger

    if options["name"] == "csv":
        return [CSVLogger(run_dir / "logs", name=method)]
    # The same folder and method continue the same W&B run.
    run_id = hashlib.sha256(f"{run_dir.resolve()}|{method}".encode()).hexdigest()[:12]
    return [
        WandbLogger(
            name=f"{name}-{method}",
            id=run_id,
            save_dir=str(run_dir),
            project=options["project"],
            group=name,
            job_type=method,
            config=config,
            entity=options["entity"],
            mode=options["mode"],
            resume="allow" if options["mode"] == "online" else None,
        )
    ]


def log_results(loggers: Sequence[Any], results: Sequence[PairResult], metrics: Sequence[Mapping[str, float]]) -> None:
    """Logs a batch's final scores and, to W&B, its images before and after."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        for result, values in zip(results, metrics, strict=True):
            logger.log_metrics({f"pair/{key}": value for key, value in values.items()})
            if isinstance(logger, WandbLogger):
                images = [result.initial_image, result.final_image]
                caption = result.pair.prompt
                logger.log_image("pair/images", images, caption=[f"before: {caption}", f"after: {caption}"])


def close_loggers(loggers: Sequence[Any], summary: Mapping[str, float]) -> None:
    """Writes the method's aggregates and ends W&B runs, so that the next method starts its own."""
    for logger in loggers:
        logger.log_metrics({f"mean/{key}": value for key, value in summary.items()})
        logger.save()
        logger.finalize("success")
        experiment = logger.experiment
        if hasattr(experiment, "finish"):
            experiment.finish()
