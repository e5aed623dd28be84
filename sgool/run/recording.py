"""From a method's results to records: scores by the judges, and the files of the run folder."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sgool.results import RunFolder
from sgool.types import PairRecord, PromptSeed

if TYPE_CHECKING:
    from sgool.methods.base import PairResult
    from sgool.run.session import Session


def score(session: Session, results: Sequence[PairResult]) -> list[dict[str, float]]:
    """Each image's metrics; those of the first image get the suffix ``_initial``.

    What compares the final image with the first one, or their latents, has no such value.
    """
    import torch

    first = torch.stack([result.initial_image for result in results]).to(session.device)
    final = torch.stack([result.final_image for result in results]).to(session.device)
    latents = [(result.initial_latents, result.final_latents) for result in results]
    well = [result.error is None for result in results]
    rows = session.judges.judge(first, final, [result.pair for result in results], latents, counted=well)
    for row, result in zip(rows, results, strict=True):
        if result.history:
            row["objective_initial"] = result.history[0]["selection"]
            row["objective"] = result.history[result.best_step]["selection"]
        row |= session.unread.get(result.pair.prompt, {})
    return rows


def write_result(
    folder: RunFolder, method: str, result: PairResult, metrics: dict[str, float], seconds: float
) -> PairRecord:
    """Writes a pair's files and its record, which it returns."""
    record = PairRecord(
        pair_id=result.pair.pair_id,
        method=method,
        prompt=result.pair.prompt,
        category=result.pair.category,
        seed=result.pair.seed,
        status="failed" if result.error else "done",
        error=result.error,
        num_optimization_steps=result.num_optimization_steps,
        best_step=result.best_step,
        metrics=metrics,
        network_evaluations=result.network_evaluations,
        seconds=round(seconds, 3),
        peak_memory_mib=round(_peak_memory_mib(), 1),
    )
    finite = bool(result.initial_image.isfinite().all()) and bool(result.final_image.isfinite().all())
    images = {"initial": result.initial_image, "final": result.final_image} if finite else {}
    latents = {"initial": result.initial_latents, "best": result.final_latents}
    saliency_map = result.saliency_map if finite else None
    snapshots = [(update, image) for update, image in result.snapshots if bool(image.isfinite().all())]
    folder.write(record, images, saliency_map, result.history, latents, snapshots)
    return record


def write_failure(folder: RunFolder, method: str, pair: PromptSeed, error: str, seconds: float) -> PairRecord:
    """The record of a pair of which there is nothing but the reason why it failed."""
    record = PairRecord(
        pair_id=pair.pair_id,
        method=method,
        prompt=pair.prompt,
        category=pair.category,
        seed=pair.seed,
        status="failed",
        error=error,
        num_optimization_steps=0,
        best_step=0,
        metrics={},
        network_evaluations=0,
        seconds=round(seconds, 3),
        peak_memory_mib=round(_peak_memory_mib(), 1),
    )
    folder.write(record)
    return record


def _peak_memory_mib() -> float:
    """Peak of the GPU's memory where one is used, else of the process's."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB here
