"""What the metrics of single images have in common: a score for each, and their mean over all processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.distributed import get_backend
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from sgool.models.fingerprint import fingerprints

_Score = TypeVar("_Score", bound="ScoreMetric")


class ScoreMetric(Metric):
    """A torchmetrics metric of single images, with what a report needs to show it.

    The states are sums in float64. They are saved with the module that holds the metric, so that a resumed run goes on
    with its means, and they stay on the CPU: some accelerators have no float64. Networks are kept in a tuple: they are
    frozen, and so they are no part of the state.

    ``higher_is_better`` is torchmetrics' own attribute: True, False, or None where neither is better. The others say
    how reports show the metric.

    Attributes:
        key: The end of the metric's name in records: ``NAME/key``.
        title: What a report calls it; empty: the key.
        digits: Decimals in display.
        scale: Factor for display.
        unit: Stands behind a value.
        difference_unit: Stands behind a difference.
        place: Reports show metrics with smaller numbers first.
    """

    full_state_update = False
    key: ClassVar[str]
    title: str = ""
    digits: int = 2
    scale: float = 1.0
    unit: str = ""
    difference_unit: str = ""
    place: int = 1000

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_states, **kwargs})
        self._inherited = frozenset(vars(self))

    def add_sums(self, name: str, number: int | None = None) -> None:
        """Adds a state of sums, () or (number,), that begin at 0 and add up over processes."""
        default = torch.zeros(() if number is None else (number,), dtype=torch.float64)
        self.add_state(name, default, dist_reduce_fx="sum", persistent=True)

    @property
    def update_called(self) -> bool:
        """Always True: the mean of no scores is NaN, and no reason for torchmetrics to warn."""
        return True

    def twin(self: _Score) -> _Score:
        """A metric over the same networks, with sums of its own, which begin at 0."""
        # copy.copy, not Metric.clone: that copies the networks.
        twin = copy.copy(self)
        for name, default in self._defaults.items():
            setattr(twin, name, copy.deepcopy(default))
        twin.reset()
        return twin

    def describe(self) -> dict[str, Any]:
        """What a report needs to show the metric, in plain values for JSON."""
        names = ("higher_is_better", "digits", "scale", "unit", "difference_unit", "place")
        return {"title": self.title or self.key.replace("_", " "), **{name: getattr(self, name) for name in names}}

    def fingerprints(self) -> frozenset[str]:
        """The fingerprints of the networks that score, see `sgool.models.fingerprint`."""
        own = [value for name, value in vars(self).items() if name not in self._inherited]
        return fingerprints([*own, *self.children()])

    def _apply(self: _Score, fn: Callable[..., Any], exclude_state: Sequence[str] = ()) -> _Score:
        """Moves networks that a subclass may have in its tree; the states stay where they are."""
        return super()._apply(fn, exclude_state=(*exclude_state, *self._defaults))  # type: ignore[return-value]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._computed = None  # torchmetrics would go on giving the mean of the earlier state
        for name in self._defaults:
            setattr(self, name, getattr(self, name).cpu())


class MeanScore(ScoreMetric):
    """The mean of scores of single images; a subclass says how an image is scored.

    Each score is added in two parts, the nearest float32 and what is left of it. As long as the scores are of like
    sizes, neither sum in float64 is rounded, so that the mean depends neither on batches and their order nor on
    processes.

    Attributes:
        scores: (B,) of the last `update`; infinite where the metric is not defined for an image.
    """

    total: Tensor
    number: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_sums("total", 2)
        self.add_sums("number")
        self.scores: Tensor = torch.zeros(0)

    def score(self, *args: Any, **kwargs: Any) -> Tensor:
        """(B,) scores of B images; infinite where the metric is not defined for an image."""
        raise NotImplementedError

    def update(self, *args: Any, counted: Sequence[bool] | None = None, **kwargs: Any) -> None:
        """Scores images, and adds those scores that are finite.

        Args:
            *args: As those of `score`.
            counted: Which of the images count in the mean; None: all.
            **kwargs: As those of `score`.
        """
        self.scores = self.score(*args, **kwargs).detach()
        scores = self.scores.cpu().double()
        kept = scores.isfinite()
        if counted is not None:
            kept &= torch.tensor(list(counted), dtype=torch.bool)
        scores = scores[kept]
        near = scores.float().double()
        # Not in place: a loaded state is a tensor of the checkpoint.
        self.total = self.total + torch.stack([near.sum(), (scores - near).sum()])
        self.number = self.number + len(scores)

    def compute(self) -> Tensor:
        """Mean score, (), in float64; NaN before any was counted."""
        return self.total.sum() / self.number


class TextScore(MeanScore):
    """A score of images (B, 3, H, W) in [0, 1] for B prompts: ``score(images, prompts)``."""

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Per prompt the text that the network does not read, or None."""
        return [None] * len(prompts)


class ImageScore(MeanScore):
    """A score of images (B, 3, H, W) in [0, 1] alone: ``score(images)``."""


class ChangeScore(MeanScore):
    """How far images are from those that their pairs began with: ``score(images, first)``, each (B, 3, H, W)."""


def gather_states(state: Tensor, group: Any = None) -> list[Tensor]:
    """A state of every rank, by whatever device the process group can send from (NCCL: the GPU, others: the CPU)."""
    device = "cuda" if get_backend(group) == "nccl" else "cpu"
    return [other.to(state.device) for other in gather_all_tensors(state.to(device), group)]
