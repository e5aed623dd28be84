"""The base classes of callbacks on pairs: their order, and the hooks of a batch of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import lightning as L
from torch import Tensor

from sgool.errors import SgoolError
from sgool.types import Candidate, Evaluation, PairResult


class PairCallback(L.Callback):
    """A callback that knows of batches of pairs, beside Lightning's own hooks.

    A fit optimises one batch of pairs after the other, so whatever a callback remembers of a batch begins anew in
    `on_pairs_start` and is kept by `batch_state`.

    Attributes:
        order: Its place among the others. The module sorts them when a Trainer takes it up, so the order in the
            Trainer's list, or where Lightning appends, does not matter. Those of other libraries stay where they are.
    """

    order: ClassVar[int] = 80

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Called when the module has taken up a batch of pairs, with their first latents."""

    def on_pairs_end(self, trainer: L.Trainer, pl_module: Any, results: Sequence[PairResult]) -> None:
        """Called when a batch is done, with one result a pair, in order, scored by the judges."""

    def on_candidate(self, trainer: L.Trainer, pl_module: Any, seen: Candidate) -> None:
        """Called when an optimisation that searches first has scored a candidate of each pair."""

    def on_candidates_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Called when that search has ended, with each pair's best candidate as the module's latents."""

    def on_denoising_step(self, trainer: L.Trainer, pl_module: Any, step: int, total: int) -> None:
        """Called when a method that works along one chain has made ``step`` of ``total`` denoising steps."""

    def batch_state(self) -> dict[str, Any]:
        """Returns what the callback remembers of the batch under way, in plain values and tensors on the CPU."""
        return {}

    def load_batch_state(self, state: dict[str, Any]) -> None:
        """Restores what `batch_state` returned; `on_pairs_start` was called before."""

    @staticmethod
    def gradient(module: Any) -> Tensor:
        """Returns the latents' gradient (S, B, C, h, w), to be changed in place."""
        gradient: Tensor | None = module.latents.grad
        assert gradient is not None
        return gradient


class UpdateCallback(PairCallback):
    """A part of the updates of latents: it changes them, or keeps what they saw.

    Methods without updates pass it by, so a Trainer may have `sgool.callbacks.default_callbacks` for all methods.
    """

    def check(self, module: Any) -> None:
        """Raises SgoolError for a module that this cannot work with.

        A run asks the callbacks of all its methods before the first of them starts.
        """

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Checks the module before any network call."""
        self.check(pl_module)


class Column(Protocol):
    """A value of each evaluation that a pair's history shows beside the objective's own."""

    name: str

    def values(self, module: Any, seen: Evaluation) -> Tensor:
        """Returns the column's values (B,) for what an update saw."""
        ...


def require_positive(name: str, value: Any) -> None:
    """Raises SgoolError for what is no number above 0."""
    if not value > 0:
        raise SgoolError(f"`optimization.{name}`: expected a positive number, got {value}")


def refuse_clock(module: Any, key: str, schedule: str) -> None:
    """Refuses a schedule over the updates where a clock decides how many there are.

    Raises:
        SgoolError: The module has a budget in seconds.
    """
    if getattr(getattr(module, "budget", None), "seconds", None) is not None:
        raise SgoolError(
            f"`{key}`: expected constant where `budget.seconds` is set, got {schedule}: how many updates there will be "
            "is not known beforehand"
        )


def noises_of(module: Any) -> int:
    """Returns how many of the last streams of a module's latents are injected noises (`optimization.streams: all`)."""
    return int(getattr(module, "num_noises", 0))


def tied_streams(latents: Tensor, module: Any) -> Tensor:
    """Returns the streams of latents (S, B, C, h, w) that are copies of one noise: all but injected noises."""
    return latents[: len(latents) - noises_of(module)]
