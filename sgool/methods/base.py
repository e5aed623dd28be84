"""What a method is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import lightning
from torch import Tensor

from sgool.errors import Interrupted
from sgool.methods.latent_pairs import LatentPairModule
from sgool.objectives import Objective
from sgool.types import PromptSeed


@dataclass(frozen=True)
class PairResult:
    """The images of one pair under one method.

    Images and the map hold the values of 8-bit pixels (`sgool.results.checkpoint.eight_bit`): judges score exactly what
    is saved, in an undisturbed run and a resumed one alike.

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
        retries: How often the pair was put back because something was not finite.
        seconds_before: Wall seconds that earlier, interrupted starts of its fit took.
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
    retries: int = 0
    seconds_before: float = 0.0


@dataclass(frozen=True)
class FitSettings:
    """How each fit of a run is trained.

    Attributes:
        module: Keyword arguments of `LatentPairModule` (sampler, steps, guidance, size, ...).
        trainer: Keyword arguments of ``lightning.Trainer`` (accelerator, devices, precision, strategy, plugins), and
            ``extra_callbacks``, a list.
        logger: Lightning loggers, shared by all fits of a method.
        on_update: Called with (update, of how many, loss, score) after each one, for progress bars; methods that
            have neither loss nor score leave them out.
        checkpoint: File of this batch's checkpoint: a fit goes on from it where it can, and writes it. It is the
            caller's to delete, once the results are safe.
        save_every_n_updates: Updates (candidates) between two checkpoints; None: they are written at an interrupt and
            at the end alone.
        interrupted: Asked after every update, denoising step or candidate: whether to stop.
        on_note: Told what the user should know.
        fingerprint: What else has to be equal for a checkpoint to be taken up, for example a hash of the configuration.
    """

    module: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: Sequence[Any] = ()
    on_update: Callable[..., None] | None = None
    checkpoint: Path | None = None
    save_every_n_updates: int | None = None
    interrupted: Callable[[], bool] | None = None
    on_note: Callable[[str], None] | None = None
    fingerprint: str = ""

    def stop_if_asked(self, done: int, total: int) -> None:
        """Raises `Interrupted` where that is wanted, after ``done`` of ``total`` steps; the last one is not undone."""
        if done < total and self.interrupted is not None and self.interrupted():
            raise Interrupted(f"stopped after step {done} of {total}, as it was asked to")


class Method(Protocol):
    """Turns a batch of pairs into images; one result per pair, in order."""

    name: str

    def run(self, pairs: Sequence[PromptSeed], settings: FitSettings) -> list[PairResult]:
        """Runs the batch, or the rest of it.

        Raises:
            Interrupted: It was asked to stop; the same call makes what is left of it, to the same results.
        """
        ...


def deciding(module: LatentPairModule, objective: Objective, settings: FitSettings) -> list[Any]:
    """What decides on a result beside the method's own options, for the origin of a checkpoint."""
    terms = {name: [type(term), term.input_size, objective.weights[name]] for name, term in objective.terms.items()}
    saliency = objective.saliency
    # A detector and a term may count their calls: their kind has to do.
    detection = saliency and {**vars(saliency), "detector": type(saliency.detector)}
    models, precision = module.models, str(settings.trainer.get("precision"))
    return [
        [lightning.__version__, settings.fingerprint, models.name, models.dtype, precision],
        [settings.module, terms, objective.crops, detection, module.latents],
    ]
