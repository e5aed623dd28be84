"""Losses and gradients that are not finite: one more try, then the pair stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks.base import UpdateCallback

#: Names in an optimiser's state of what carries a step on: SGD's and Adam's.
_FIRST_MOMENTS = {"momentum_buffer", "exp_avg"}


class NonFiniteGuard(UpdateCallback):
    """Puts a pair whose loss or gradient is NaN or infinite back by half of its last step, once; then it fails.

    The last step led from latents that were evaluated well, z, to the bad ones, z'. The pair goes on from z + (z' - z)
    / 2 with half of its momentum (with Adam, half of its first moment); the update at which it was found makes no step
    of its own and adds no noise, and its row in the history stays. What is not finite for the second time, at the first
    update, or so far away that half of the way is not finite either, fails: the pair stays at z and the reason is
    recorded. Nothing of this reaches the other pairs of the batch. A batch whose pairs have all stopped ends.

    Pairs that stopped for another reason (`EarlyStop`) are held here, too.

    Args:
        on_note: Told of each pair that is put back.
    """

    order = 30

    def __init__(self, on_note: Callable[[str], None] | None = None) -> None:
        self._on_note = on_note
        self._good: Tensor | None = None
        self._known: list[bool] = []
        self._resting: dict[int, Tensor] = {}
        self._moments: dict[int, dict[str, Tensor]] = {}

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Forgets the good latents of the batch before."""
        self._good = pl_module.latents.detach().clone()
        self._known = [False] * len(pl_module.pairs)
        self._resting, self._moments = {}, {}

    def on_candidates_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Takes the candidates that the updates start from for the good latents."""
        self._good = pl_module.latents.detach().clone()

    def batch_state(self) -> dict[str, Any]:
        """Returns the last good latents, and which pairs have any."""
        assert self._good is not None
        return {"good": self._good.cpu(), "known": list(self._known)}

    def load_batch_state(self, state: dict[str, Any]) -> None:
        """Restores the last good latents."""
        assert self._good is not None
        self._good, self._known = state["good"].to(self._good), list(state["known"])

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Judges each pair; zeroes gradient and momentum of those that make no step."""
        gradient, update = self.gradient(pl_module), pl_module.update
        # The momentum of SGD, or Adam's two moments; empty before the first step.
        state = optimizer.state[pl_module.latents]
        moments = {name: value for name, value in state.items() if value is not None and value.dim()}
        for index in range(len(pl_module.pairs)):
            if not pl_module.is_stopped(index):
                self._judge(pl_module, index, gradient, moments)
            if pl_module.is_held(index, update):
                gradient[:, index] = 0
                for name in _FIRST_MOMENTS & moments.keys():
                    moments[name][:, index] = 0
                self._resting[index] = pl_module.latents[:, index].clone()
        self._end_if_all_stopped(pl_module)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Puts pairs that make no step where they were, since a weight decay moves them without a gradient.

        Pairs that were put back get their momentum again, which had to be still for this update.
        """
        for index, latents in self._resting.items():
            pl_module.latents[:, index] = latents
        for index, moments in self._moments.items():
            for name, value in moments.items():
                trainer.optimizers[0].state[pl_module.latents][name][:, index] = value
        self._resting.clear()
        self._moments.clear()

    def _judge(self, module: Any, index: int, gradient: Tensor, moments: Mapping[str, Tensor]) -> None:
        assert self._good is not None
        now, good, update = module.latents[:, index], self._good[:, index], module.update
        checked = (("loss", module.evaluation.loss[index]), ("gradient", gradient[:, index]))
        bad = [name for name, value in checked if not bool(torch.isfinite(value).all())]
        if not bad:
            good.copy_(now)
            self._known[index] = True
            return
        middle = good + 0.5 * (now - good)
        if self._known[index] and index not in module.retries and bool(middle.isfinite().all()):
            module.retries[index] = (update, bad[0])
            now.copy_(middle)
            self._moments[index] = {
                name: value[:, index] / 2 if name in _FIRST_MOMENTS else value[:, index].clone()
                for name, value in moments.items()
            }
            self._note(
                f"{module.pairs[index].pair_id}: non-finite {bad[0]} at update {update}, retried with half the step"
            )
            return
        reason = f"non-finite {bad[0]} at update {update}"
        if index in module.retries:
            before, what = module.retries[index]
            reason += f", after non-finite {what} at update {before} and a retry with half the step"
        now.copy_(good)
        module.fail(index, update, reason)

    def _note(self, text: str) -> None:
        if self._on_note is not None:
            self._on_note(text)

    @staticmethod
    def _end_if_all_stopped(module: Any) -> None:
        if all(module.is_stopped(index) for index in range(len(module.pairs))):
            module.batch.end()
