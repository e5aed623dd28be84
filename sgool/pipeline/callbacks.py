"""Callbacks of a call: they keep its results, move its bar, and call the caller's function after each update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks import PairCallback, Trajectory
from sgool.callbacks.base import tied_streams
from sgool.errors import SgoolError
from sgool.types import Candidate, PairResult

#: What `callback_on_step_end_tensor_inputs` may name.
TENSORS = ("latents", "images", "loss", "selection", "saliency_map")


class Results(PairCallback):
    """Keeps the results of all batches, in order."""

    order = 90

    def __init__(self) -> None:
        self.results: list[PairResult] = []

    def on_pairs_end(self, trainer: L.Trainer, pl_module: Any, results: Sequence[PairResult]) -> None:
        """Keeps a batch's results on the CPU."""
        self.results += [result.to("cpu") for result in results]


class Bar(PairCallback):
    """A tqdm bar: a step is an update, a candidate, or a denoising step of a method that works along one chain.

    Args:
        options: Arguments of ``tqdm``, such as ``disable``.
    """

    order = Trajectory.order - 1

    def __init__(self, options: Mapping[str, Any]) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(**{"desc": "sgool", "total": None, **options})
        self._done = 0  # steps of the batches before

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Notes where the batch begins."""
        self._done = self._bar.n

    def on_candidate(self, trainer: L.Trainer, pl_module: Any, seen: Candidate) -> None:
        """Moves the bar by a candidate of a search before the updates."""
        self._move(seen.index + 1, seen.total + pl_module.batch.updates, float(seen.selection.mean()))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves the bar by an update, with the objective's value."""
        before = pl_module.num_searched
        self._move(before + batch.update + 1, before + batch.updates, float(pl_module.evaluation.selection.mean()))

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Moves the bar by a candidate of a method without updates."""
        self._move(batch.update + 1, batch.updates)

    def on_denoising_step(self, trainer: L.Trainer, pl_module: Any, step: int, total: int) -> None:
        """Moves the bar by a denoising step."""
        self._move(step, total)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def _move(self, step: int, total: int, objective: float | None = None) -> None:
        if objective is not None:
            self._bar.set_postfix(objective=f"{objective:.4g}", refresh=False)
        self._bar.total = self._done + total
        self._bar.update(self._done + step - self._bar.n)
        self._bar.refresh()


class OnStepEnd(PairCallback):
    """Calls a function after each update, as diffusers does after each denoising step.

    Args:
        pipeline: The first argument of the function.
        function: Called as ``function(pipeline, step, total, tensors)``; it may return a mapping with "latents".
        names: Which of `TENSORS` it gets.
    """

    #: After all that changes the latents, and before the results are made of a batch's last update.
    order = Trajectory.order - 1

    def __init__(self, pipeline: Any, function: Callable[..., Any], names: Sequence[str]) -> None:
        self._pipeline, self._function, self._names = pipeline, function, tuple(names)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Calls the function with what the update saw and the latents that it made; takes latents back."""
        seen = pl_module.evaluation
        known = {
            "latents": pl_module.latents.detach()[0].clone(),
            "images": seen.images,
            "loss": seen.loss,
            "selection": seen.selection,
            "saliency_map": seen.output.saliency_map,
        }
        tensors = {name: known[name] for name in self._names}
        found = self._function(self._pipeline, batch.update, batch.updates, tensors)
        if isinstance(found, Mapping) and "latents" in found:
            self._take(pl_module, found["latents"], known["latents"])

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Calls the function after each candidate of a method without updates; there are no tensors then."""
        self._function(self._pipeline, batch.update, batch.updates, {})

    @staticmethod
    @torch.no_grad()
    def _take(module: Any, given: Any, own: Tensor) -> None:
        if not isinstance(given, Tensor) or given.shape != own.shape:
            got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise SgoolError(
                f"`callback_on_step_end`: expected latents of shape {tuple(own.shape)} in what it returns, got {got}"
            )
        if not torch.equal(given.to(own), own):
            streams = tied_streams(module.latents.data, module)
            streams.copy_(given.to(streams).expand_as(streams))
