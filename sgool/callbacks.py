"""What happens around the gradient step, in DOODL's order (Wallace et al. 2023, algorithm 1).

Before the step: tie the gradients, scale, clip. After it: perturb, tie the latents, renormalise. Each works on every
pair of the batch by itself.
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.module import Evaluation, LatentPairModule
from sgool.seeding import pair_generator


class _LatentCallback(L.Callback):
    """A callback for a LatentPairModule."""

    @staticmethod
    def _gradient(module: L.LightningModule) -> Tensor:
        assert isinstance(module, LatentPairModule) and module.latents.grad is not None
        return module.latents.grad


class NonFiniteGuard(_LatentCallback):
    """Stops a pair whose loss or gradient is NaN or infinite: it rests where it is and the reason is recorded."""

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Zeroes the gradients and the momentum of failed pairs."""
        gradient = self._gradient(pl_module)
        momentum = optimizer.state[pl_module.latents].get("momentum_buffer")
        for index, loss in enumerate(pl_module.evaluation.loss):
            for what, value in (("loss", loss), ("gradient", gradient[:, index])):
                if not torch.isfinite(value).all():
                    pl_module.failures.setdefault(index, f"non-finite {what} at update {pl_module.global_step}")
            if index in pl_module.failures:
                gradient[:, index] = 0
                if momentum is not None:
                    momentum[:, index] = 0


class TieGradients(_LatentCallback):
    """Both streams get the mean of their gradients."""

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Averages over the streams."""
        gradient = self._gradient(pl_module)
        gradient.copy_(gradient.mean(dim=0, keepdim=True).expand_as(gradient))


class NormalizeGradient(_LatentCallback):
    """Scales each pair's gradient to a root mean square of ``rms`` per element.

    The papers clip raw gradients at 1e-3, which suits Stable Diffusion's scale only; a normalised gradient makes the
    step size independent of the model, the objective's scale and the number of crops.
    """

    def __init__(self, rms: float) -> None:
        if not rms > 0:
            raise SgoolError(f"`optimization.gradient_rms`: expected a positive number, got {rms}")
        self.rms = rms

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Scales in place."""
        gradient = self._gradient(pl_module)
        size = gradient.square().mean(dim=(0, 2, 3, 4), keepdim=True).sqrt()
        gradient.mul_(self.rms / size.clamp_min(1e-12))


class ClipGradient(_LatentCallback):
    """Clips each element of the gradient to ±``value``."""

    def __init__(self, value: float) -> None:
        if not value > 0:
            raise SgoolError(f"`optimization.grad_clip_value`: expected a positive number, got {value}")
        self.value = value

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Clips in place."""
        self._gradient(pl_module).clamp_(-self.value, self.value)


class Perturb(_LatentCallback):
    """Adds the same noise, ``std`` · N(0, 1), to all streams of a pair, outside the momentum."""

    def __init__(self, std: float) -> None:
        if not std >= 0:
            raise SgoolError(f"`optimization.perturb_std`: expected a number of at least 0, got {std}")
        self.std = std

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Draws from each pair's generator of this update."""
        latents = pl_module.latents
        for index, pair in enumerate(pl_module.pairs):
            if index not in pl_module.failures:
                generator = pair_generator(pair.seed, "perturb", pl_module.global_step - 1)
                noise = torch.randn(latents.shape[2:], generator=generator)
                latents[:, index] += self.std * noise.to(latents)


class TieLatents(_LatentCallback):
    """Replaces the streams of each pair by their mean."""

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Averages over the streams."""
        latents = pl_module.latents
        latents.copy_(latents.mean(dim=0, keepdim=True).expand_as(latents))


class Renormalize(_LatentCallback):
    """Rescales each stream of each pair to the norm of its first draw."""

    def __init__(self) -> None:
        self._norm: Tensor | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Remembers the first norms (S, B, 1, 1, 1)."""
        self._norm = self._norms(pl_module.latents.detach())

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Rescales in place."""
        assert self._norm is not None
        latents = pl_module.latents
        latents.mul_(self._norm / self._norms(latents))

    @staticmethod
    def _norms(latents: Tensor) -> Tensor:
        return latents.square().sum(dim=(2, 3, 4), keepdim=True).sqrt()


class Trajectory(_LatentCallback):
    """Keeps, per pair, the history of losses, the first image and the best one; ``keep`` "last" takes the last.

    The latents after the last update are evaluated when the fit ends, so N updates make N + 1 candidates.
    """

    def __init__(self, keep: str = "best", snapshot_every: int | None = None) -> None:
        if keep not in ("best", "last"):
            raise SgoolError(f"`optimization.keep`: expected best or last, got {keep!r}")
        self.keep, self.snapshot_every = keep, snapshot_every
        self.history: list[list[dict[str, float]]] = []
        self.best: list[dict[str, Any]] = []
        self.first: Evaluation | None = None
        self.snapshots: list[tuple[int, Tensor]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Starts empty histories."""
        self.history = [[] for _ in pl_module.pairs]
        self.best = [{"selection": float("inf"), "update": 0} for _ in pl_module.pairs]
        self.first, self.snapshots = None, []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes what this update saw before its step."""
        self._take(pl_module, pl_module.evaluation)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Evaluates the latents after the last update, under the trainer's precision."""
        with trainer.precision_plugin.forward_context():
            seen = pl_module.evaluate()
        for index in torch.nonzero(~torch.isfinite(seen.loss)).flatten().tolist():
            pl_module.failures.setdefault(index, "non-finite loss after the last update")
        self._take(pl_module, seen)

    def _take(self, module: LatentPairModule, seen: Evaluation) -> None:
        self.first = self.first or seen
        if self.snapshot_every and seen.update % self.snapshot_every == 0:
            self.snapshots.append((seen.update, seen.images.cpu()))
        for index, history in enumerate(self.history):
            loss, selection = float(seen.loss[index]), float(seen.selection[index])
            terms = {name: float(value[index]) for name, value in seen.output.terms.items()}
            row = {"update": seen.update, "loss": loss, "selection": selection, **terms}
            row["latent_norm"] = float(seen.latents[0, index].norm())
            if seen.output.saliency_map is not None:
                row["regions"] = len(seen.output.regions[index])
            history.append(row)
            usable = index not in module.failures and math.isfinite(selection)
            if usable and (self.keep == "last" or selection < self.best[index]["selection"]):
                saliency = seen.output.saliency_map
                self.best[index] = {
                    "selection": selection,
                    "update": seen.update,
                    "latents": seen.latents[:, index].cpu(),
                    "image": seen.images[index].cpu(),
                    "saliency_map": None if saliency is None else saliency[index].cpu(),
                }


def default_callbacks(
    *,
    grad_clip_value: float | None = 1e-3,
    gradient_rms: float | None = None,
    perturb_std: float = 1e-4,
    tie: bool = True,
    renormalize: bool = True,
    keep: str = "best",
    snapshot_every: int | None = None,
) -> list[L.Callback]:
    """DOODL's callbacks in their order; None (or 0 for ``perturb_std``) leaves one out."""
    before: list[L.Callback] = [NonFiniteGuard()]
    before += [TieGradients()] if tie else []
    before += [NormalizeGradient(gradient_rms)] if gradient_rms is not None else []
    before += [ClipGradient(grad_clip_value)] if grad_clip_value is not None else []
    after: list[L.Callback] = [Perturb(perturb_std)] if perturb_std else []
    after += [TieLatents()] if tie else []
    after += [Renormalize()] if renormalize else []
    return [*before, *after, Trajectory(keep, snapshot_every)]
