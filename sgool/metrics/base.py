"""Base classes of the metrics of single images: a score for each image, and their mean over all processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.distributed import get_backend
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from sgool.models.fingerprint import fingerprints
from sgool.types import PromptSeed

_Score = TypeVar("_Score", bound="ScoreMetric")


class ScoreMetric(Metric):
    """A torchmetrics metric of single images, with what a report needs to show it.

    The states are sums in float64. They are saved with the module that holds the metric, so that a resumed run
    continues with its means. They stay on the CPU, since some accelerators have no float64. Networks are kept in a
    tuple, since they are frozen and so no part of the state.

    ``higher_is_better`` is torchmetrics' own attribute: True, False, or None where neither is better. The other
    attributes say how reports show the metric.

    Attributes:
        key: The end of the metric's name in records: ``NAME/key``.
        title: Name of the metric in reports; empty: the key.
        digits: Number of decimals that reports show.
        scale: Factor by which reports multiply values.
        unit: Text after a value.
        difference_unit: Text after a difference of two values.
        place: Order in reports, which show metrics with smaller numbers first.
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
        """Adds a state of one or ``number`` sums, which begin at 0 and are summed over processes."""
        default = torch.zeros(() if number is None else (number,), dtype=torch.float64)
        self.add_state(name, default, dist_reduce_fx="sum", persistent=True)

    @property
    def update_called(self) -> bool:
        """Always True, since the mean of no scores is NaN and torchmetrics need not warn."""
        return True

    def fresh_copy(self: _Score) -> _Score:
        """Returns a metric with the same networks and with its own sums, which begin at 0."""
        # Not Metric.clone, which would copy the networks.
        fresh = copy.copy(self)
        for name, default in self._defaults.items():
            setattr(fresh, name, copy.deepcopy(default))
        fresh.reset()
        return fresh

    def describe(self) -> dict[str, Any]:
        """Returns the attributes that a report needs to show the metric, in plain values for JSON."""
        names = ("higher_is_better", "digits", "scale", "unit", "difference_unit", "place")
        return {"title": self.title or self.key.replace("_", " "), **{name: getattr(self, name) for name in names}}

    def fingerprints(self) -> frozenset[str]:
        """Returns the fingerprints of the networks that score; see `sgool.models.fingerprint`."""
        own = [value for name, value in vars(self).items() if name not in self._inherited]
        return fingerprints([*own, *self.children()])

    def _apply(self: _Score, fn: Callable[..., Any], exclude_state: Sequence[str] = ()) -> _Score:
        """Moves networks that a subclass may have as submodules, but not the states."""
        return super()._apply(fn, exclude_state=(*exclude_state, *self._defaults))  # type: ignore[return-value]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._computed = None  # otherwise torchmetrics would still return the mean of the earlier state
        for name in self._defaults:
            setattr(self, name, getattr(self, name).cpu())


class MeanScore(ScoreMetric):
    """The mean of the scores of single images; a subclass says how an image is scored.

    Each score is added in two parts: the nearest float32, and the remainder. As long as the scores have similar sizes,
    neither sum in float64 is rounded. So the mean does not depend on the batches, their order, or the processes.

    Attributes:
        scores: Scores (B,) of the last `update`; infinite where the metric is not defined for an image.
    """

    total: Tensor
    number: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_sums("total", 2)
        self.add_sums("number")
        self.scores: Tensor = torch.zeros(0)

    def score(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns scores (B,) of B images; infinite where the metric is not defined for an image."""
        raise NotImplementedError

    def update(self, *args: Any, counted: Sequence[bool] | None = None, **kwargs: Any) -> None:
        """Scores images, and adds those scores that are finite. The score of a video is the mean over its frames.

        Args:
            *args: Arguments of `score`.
            counted: Whether each of the images counts in the mean; None: all count.
            **kwargs: Keyword arguments of `score`.
        """
        self.scores = _mean_over_frames(self.score, args, kwargs).detach()
        scores = self.scores.cpu().double()
        kept = scores.isfinite()
        if counted is not None:
            kept &= torch.tensor(list(counted), dtype=torch.bool)
        scores = scores[kept]
        near = scores.float().double()
        # Not in place, since a loaded state is a tensor of the checkpoint.
        self.total = self.total + torch.stack([near.sum(), (scores - near).sum()])
        self.number = self.number + len(scores)

    def compute(self) -> Tensor:
        """Returns the mean score, a float64 scalar; NaN if no image was counted."""
        return self.total.sum() / self.number


def _mean_over_frames(score: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Returns the scores (B,) of images, or the means of the scores of the frames of videos (B, 3, F, H, W)."""
    videos = next((value for value in args if isinstance(value, Tensor) and value.ndim == 5), None)
    if videos is None:
        return score(*args, **kwargs)
    number = videos.shape[2]

    def folded(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim == 5:
            return value.transpose(1, 2).flatten(0, 1)
        return [entry for entry in value for _ in range(number)]

    return score(*map(folded, args), **kwargs).view(-1, number).mean(dim=1)


class TextScore(MeanScore):
    """A score of images (B, 3, H, W) in [0, 1] for B prompts: ``score(images, prompts)``."""

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Returns for each prompt the text that the network does not read, or None."""
        return [None] * len(prompts)


class PairScore(MeanScore):
    """A score of images (B, 3, H, W) in [0, 1] for B pairs: ``score(images, pairs)``.

    A pair has its prompt and, as ``metadata``, the other columns of the prompt file.
    """

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns a sentence for each pair whose columns lack what the score needs; it is asked before a run begins."""
        return []


class ImageScore(MeanScore):
    """A score of images (B, 3, H, W) in [0, 1] alone: ``score(images)``."""


class ChangeScore(MeanScore):
    """A score of how images differ from their pairs' first images: ``score(images, first)``, each (B, 3, H, W)."""


def gather_states(state: Tensor, group: Any = None) -> list[Tensor]:
    """Gathers a state from all ranks, on the device that the process group sends from (NCCL: GPU, others: CPU)."""
    device = "cuda" if get_backend(group) == "nccl" else "cpu"
    return [other.to(state.device) for other in gather_all_tensors(state.to(device), group)]
