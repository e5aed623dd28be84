"""The interface of an objective's term; `docs/objectives.md` shows how to write one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from sgool.errors import SgoolError
from sgool.types import PromptSeed

#: Goal for a score: maximise it, minimise it, or bring it to a number.
Goal = Literal["maximize", "minimize"] | float


@runtime_checkable
class Term(Protocol):
    """A differentiable loss of views, each view independently of the others.

    A term may have further methods:

    - ``seeded(views, targets, seeds)``, if its loss is a random estimate. It is called in place of the term itself
      while the latents are optimised, with one whole number per view, which depends on the pair, the stream and the
      update.
    - ``fingerprints()``, if `sgool.models.fingerprint.fingerprints` does not find its networks among its attributes. It
      returns their fingerprints. The scores of a judge that shares one of them are no evidence.
    - ``problems(pairs)``, if ``targets`` refuses some pairs, or takes long. It returns a sentence for each pair that
      the term cannot be bound to, and is asked before the run's first network call. Without it, ``targets`` is called
      for each pair alone.
    - ``phrase_targets(phrases)``, if it reads text: targets as of ``targets``, a row for each phrase. Salient regions
      can then be matched with phrases (`sgool.objectives.matching`). It returns None if its network reads no text. Such
      a term may also have ``paired(views, index, targets)``, which returns the losses (M,) of ``views[index]`` for
      targets (M, D) and embeds each view once; without it the term is called with the views repeated.
    - ``truncated(prompts)``, if it cuts long prompts off. It returns for each prompt the text that it does not read, or
      None.

    A term of the whole image whose attribute ``unclamped`` is true gets it as decoded, even if the objective clamps.

    Attributes:
        name: Short name for logs.
        input_size: Side in pixels of the term's views, random crops and salient regions that are resized to it. None:
            the term sees the whole image once, as it is, and neither crops nor regions.
    """

    @property
    def name(self) -> str:
        """Short name for logs."""
        ...

    @property
    def input_size(self) -> int | None:
        """Side in pixels of the term's views; None: the whole image as it is."""
        ...

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Computes the targets (B, D) of a batch, once; a row must not depend on the other pairs."""
        ...

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (N,), lower is better, of views (N, 3, s, s), nominally in [0, 1], for targets (N, D)."""
        ...


@runtime_checkable
class SeededTerm(Term, Protocol):
    """A term whose loss, or its gradient, is a random estimate."""

    def seeded(self, views: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
        """Returns losses (N,) whose random numbers come from ``seeds``, one per view."""
        ...


def evaluated(term: Term, views: Tensor, targets: Tensor, seeds: Sequence[int] | None) -> Tensor:
    """Returns a term's losses (N,) of views (N, 3, s, s), with a seed for each view where the term is seeded.

    Raises:
        SgoolError: The losses are not of shape (N,).
    """
    if seeds is not None and isinstance(term, SeededTerm):
        return one_each(term, term.seeded(views, targets, seeds), len(views))
    return one_each(term, term(views, targets), len(views))


def one_each(term: Term, losses: Tensor, number: int) -> Tensor:
    """Returns a term's losses; raises a SgoolError unless there is one for each view, since others would broadcast."""
    if tuple(losses.shape) != (number,):
        raise SgoolError(
            f"the objective's term {term.name}: expected one loss for each of the {number} views, of shape "
            f"({number},), got {tuple(losses.shape)}; `.flatten()` makes them of a network's ({number}, 1)"
        )
    return losses


def towards(scores: Tensor, goal: Goal) -> Tensor:
    """Returns the losses of scores for a goal; their slope is 1 or -1, so that weights keep their meaning."""
    if goal == "maximize":
        return -scores
    if goal == "minimize":
        return scores
    return (scores - float(goal)).abs()


def view_size(views: Literal["crops", "whole"], input_size: int) -> int | None:
    """Returns a term's ``input_size`` for the configuration's ``views``, "crops" or "whole"."""
    return input_size if views == "crops" else None
