"""What is kept of the updates of a batch, and its results after the last one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks.base import Column, UpdateCallback
from sgool.errors import SgoolError
from sgool.objectives.matching import phrase_columns
from sgool.results.checkpoint import eight_bit, pack_image, unpack_image
from sgool.types import Candidate, Evaluation, PairResult


class Trajectory(UpdateCallback):
    """Keeps, per pair, the history of losses, the first image and the best one; ``keep`` "last" takes the last.

    After a batch's last update its latents are evaluated once more, so N updates make N + 1 candidates, and the results
    go to ``module.deliver``. Of a pair that was stopped, the update at which it was is the last. Images and maps are
    kept in 8 bits, on the CPU. `LatentPairModule` adds one where a Trainer has none.

    Where an optimisation searches among candidates first, their rows come before those of the updates, and all rows are
    numbered one after the other: candidate k is row k, update u row K + u after K candidates. The column ``candidate``
    says which one a row belongs to.

    Args:
        keep: "best" by the selection score, or "last".
        snapshot_every: Updates between two images that are kept; None: none are.
        columns: Further values for the history.

    Attributes:
        history: Rows per pair.
        best: Per pair "selection" and "update" (its row), and from the first usable image on "latents", "image",
            "saliency_map".
        first_latents: (S, B, C, h, w).
        first_images: (B, 3, H, W), None before the first update.
        snapshots: (row, images).
    """

    order = 85

    def __init__(self, keep: str = "best", snapshot_every: int | None = None, columns: Sequence[Column] = ()) -> None:
        if keep not in ("best", "last"):
            raise SgoolError(f"`optimization.keep`: expected best or last, got {keep!r}")
        self.keep, self.snapshot_every, self.columns = keep, snapshot_every, tuple(columns)
        self.history: list[list[dict[str, float]]] = []
        self.best: list[dict[str, Any]] = []
        self.first_latents: Tensor | None = None
        self.first_images: Tensor | None = None
        self.snapshots: list[tuple[int, Tensor]] = []
        self._packed: dict[tuple[str, int, int], dict[str, Any]] = {}

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Starts empty histories for the pairs of a new batch."""
        self.history = [[] for _ in pl_module.pairs]
        self.best = [{"selection": float("inf"), "update": 0} for _ in pl_module.pairs]
        # After a resume the first latents are the same: they follow from the pairs, and checkpoints spare them.
        self.first_latents, self.first_images = pl_module.latents.detach().cpu().clone(), None
        self.snapshots, self._packed = [], {}

    def on_candidate(self, trainer: L.Trainer, pl_module: Any, seen: Candidate) -> None:
        """Adds a candidate to the histories; the pairs' own first latents give their first images."""
        if self.first_images is None:
            self.first_images = seen.images
        for index, history in enumerate(self.history):
            score, norm = float(seen.selection[index]), float(seen.latents[0, index].norm())
            row = {"update": seen.index, "loss": score, "selection": score, "latent_norm": norm}
            history.append({**row, "candidate": seen.index})

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keeps what this update saw before its step; after the last one, hands over the results."""
        self._take(pl_module, pl_module.evaluation)
        _fail_lost_pairs(pl_module)
        if batch.is_over:
            if len(pl_module.stopped) < len(pl_module.pairs):
                self._take_last(trainer, pl_module)
            pl_module.deliver([self._result(pl_module, index) for index in range(len(pl_module.pairs))])
        pl_module.in_update = False

    def _take_last(self, trainer: L.Trainer, module: Any) -> None:
        """Evaluates the latents after the last update, under the trainer's precision."""
        with trainer.precision_plugin.forward_context():
            seen = module.evaluate()
        for index in torch.nonzero(~torch.isfinite(seen.loss)).flatten().tolist():
            if index not in module.stopped:
                module.failures.setdefault(index, "non-finite loss after the last update")
        self._take(module, seen)

    def _result(self, module: Any, index: int) -> PairResult:
        assert self.first_latents is not None and self.first_images is not None
        first, best, initial = self.first_latents[:, index], self.best[index], self.first_images[index]
        error = module.failures.get(index)
        if "image" not in best and error is None:
            error = "the objective was never finite"
        chain = module.batch_chain
        whole = (module.last_update, chain.calls, chain.network.backward_calls)
        updates, calls, backward = module.stopped.get(index, whole)
        shown = [(row, images) for row, images in self.snapshots if row <= module.search.tried + updates]
        return PairResult(
            pair=module.pairs[index],
            initial_image=initial,
            final_image=best.get("image", initial),
            initial_latents=first,
            final_latents=best.get("latents", first),
            saliency_map=best.get("saliency_map"),
            best_step=int(best["update"]),
            history=self.history[index],
            error=error,
            num_optimization_steps=updates,
            network_evaluations=calls,
            network_backward_passes=backward,
            snapshots=[(row, torch.clone(images[index])) for row, images in shown],
            retries=int(index in module.retries),
        )

    def batch_state(self) -> dict[str, Any]:
        """Returns everything that was kept, with images as PNG."""
        packed, self._packed = self._packed, {}

        def pack(kind: str, update: int, index: int, image: Tensor | None) -> dict[str, Any] | None:
            if image is None:
                return None
            # Kept from one checkpoint to the next; an image that is first, best and snapshot is stored once.
            key = (kind, update, index)
            self._packed[key] = self._packed.get(key) or packed.get(key) or pack_image(image)
            return self._packed[key]

        def pack_all(update: int, images: Tensor) -> list[Any]:
            return [pack("image", update, index, image) for index, image in enumerate(images)]

        best = []
        for index, kept in enumerate(self.best):
            kinds = [kind for kind in ("image", "saliency_map") if kind in kept]
            best.append(kept | {kind: pack(kind, kept["update"], index, kept[kind]) for kind in kinds})
        return {
            "history": self.history,
            "best": best,
            "first": None if self.first_images is None else pack_all(0, self.first_images),
            "snapshots": [(update, pack_all(update, images)) for update, images in self.snapshots],
        }

    def load_batch_state(self, state: dict[str, Any]) -> None:
        """Restores everything that was kept."""
        self.history = state["history"]
        self.best = [
            {key: unpack_image(value) if isinstance(value, dict) else value for key, value in kept.items()}
            for kept in state["best"]
        ]
        first = state["first"]
        self.first_images = None if first is None else torch.stack([unpack_image(image) for image in first])
        self.snapshots = [
            (update, torch.stack([unpack_image(image) for image in images])) for update, images in state["snapshots"]
        ]

    def _take(self, module: Any, seen: Evaluation) -> None:
        images = eight_bit(seen.images).cpu()
        if self.first_images is None:
            self.first_images = images
        before = module.search.tried
        if self.snapshot_every and seen.update % self.snapshot_every == 0:
            self.snapshots.append((before + seen.update, images))
        columns = {column.name: column.values(module, seen) for column in self.columns}
        for index, history in enumerate(self.history):
            if module.was_stopped_before(index, seen.update):
                continue
            row = _row(seen, index, before) | {name: float(values[index]) for name, values in columns.items()}
            if before:
                row["candidate"] = module.search.chosen[index]
            history.append(row)
            usable = index not in module.failures and math.isfinite(row["loss"]) and math.isfinite(row["selection"])
            # An objective may be finite where the image is not.
            usable = usable and bool(images[index].isfinite().all())
            if usable and (self.keep == "last" or row["selection"] < self.best[index]["selection"]):
                saliency = seen.output.saliency_map
                # Copies: a slice would keep, and a checkpoint store, the whole batch's images and latents.
                self.best[index] = {
                    "selection": row["selection"],
                    "update": row["update"],
                    "latents": seen.latents[:, index].cpu().clone(),
                    "image": images[index].clone(),
                    "saliency_map": None if saliency is None else saliency[index].cpu().clone(),
                }


@torch.no_grad()
def _fail_lost_pairs(module: Any) -> None:
    """Puts pairs whose latents are not finite after an update back to what it saw; they have failed.

    The network refuses such latents, and the whole batch with them. `NonFiniteGuard` sees losses and gradients alone.
    """
    seen = module.evaluation
    for index in range(len(module.pairs)):
        if not (module.is_stopped(index) or module.latents[:, index].isfinite().all()):
            module.latents[:, index] = seen.latents[:, index]
            module.fail(index, seen.update, f"non-finite latents after update {seen.update}")


def _row(seen: Evaluation, index: int, before: int) -> dict[str, float]:
    loss, selection = float(seen.loss[index]), float(seen.selection[index])
    terms = {name: float(value[index]) for name, value in seen.output.terms.items()}
    row = {"update": before + seen.update, "loss": loss, "selection": selection, **terms}
    row["latent_norm"] = float(seen.latents[0, index].norm())
    if seen.output.saliency_map is not None:
        row["regions"] = len(seen.output.regions[index])
    return row | phrase_columns(seen.output, index)
