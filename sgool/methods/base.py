"""What a method is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from sgool.types import PromptSeed


@dataclass(frozen=True)
class PairResult:
    """The images of one pair under one method.

    Attributes:
        pair: The prompt-seed pair.
        initial_image: (3, H, W) in [0, 1], of the first latents.
        final_image: (3, H, W) in [0, 1], of the latents that were kept.
        initial_latents: (S, C, h, w).
        final_latents: (S, C, h, w).
        saliency_map: (1, H, W) in [0, 1] for the final image, or None.
        best_step: Update whose image is the final one (0: the first image).
        history: One row an update: update, loss, selection, ...
        error: Why the pair failed, or None.
        num_optimization_steps: Updates made.
        network_evaluations: Calls of the denoising network for this image, recomputation included.
        snapshots: (update, image) pairs along the trajectory.
    """

    pair: PromptSeed
    initial_image: Tensor
    final_image: Tensor
    initial_latents: Tensor
    final_latents: Tensor
    saliency_map: Tensor | None = None
    best_step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None
    num_optimization_steps: int = 0
    network_evaluations: int = 0
    snapshots: list[tuple[int, Tensor]] = field(default_factory=list)


@dataclass(frozen=True)
class FitSettings:
    """How each fit of a run is trained.

    Attributes:
        module: Keyword arguments of `sgool.module.LatentPairModule` (sampler, steps, guidance, size, ...).
        trainer: Keyword arguments of ``lightning.Trainer`` (accelerator, devices, precision).
        logger: Lightning loggers, shared by all fits of a method.
        on_update: Called with (update, of how many) after each one, for progress bars.
    """

    module: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: Sequence[Any] = ()
    on_update: Callable[[int, int], None] | None = None


class Method(Protocol):
    """Turns a batch of pairs into images; one result per pair, in order."""

    name: str

    def run(self, pairs: Sequence[PromptSeed], settings: FitSettings) -> list[PairResult]:
        """Runs the batch."""
        ...
