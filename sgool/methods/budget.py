"""What a method may spend on a pair: network calls, backward passes counted as well, or seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L

from sgool.callbacks import Trajectory, UpdateCallback
from sgool.diffusion import Chain
from sgool.errors import SgoolError

#: The most updates or candidates of a method that only the clock ends.
MOST_ROUNDS = 10_000


@dataclass(frozen=True)
class Budget:
    """The most that a method may spend on a pair.

    Attributes:
        calls: Calls of the denoising network, forward passes, recomputations and backward passes together; None: as
            many as the method's own settings say.
        seconds: Wall seconds of the pair, its share of its batch's time; None: as many as it takes. Judges are not
            counted, since they score after the method has ended.
        method: Name of the method, for messages.
    """

    calls: int | None = None
    seconds: float | None = None
    method: str = "the method"

    def __bool__(self) -> bool:
        return self.calls is not None or self.seconds is not None

    @classmethod
    def of(cls, options: Mapping[str, Any], method: str) -> Budget:
        """Returns the budget of a mapping with both keys, as the configuration has it."""
        return cls(options["calls"], options["seconds"], method)


@dataclass(frozen=True)
class Costs:
    """Network calls (forward, recomputed and backward together) of a chain.

    Attributes:
        image: Of one image without gradients.
        update: Of one update of the first latents.
    """

    image: int
    update: int

    @classmethod
    def of(cls, chain: Chain) -> Costs:
        """Counts the calls of a chain, as if its engine kept no activations in ``memory_mib``.

        How many it keeps depends on the size of the batch, and results must not.
        """
        again = chain.with_prompts([""]).recomputed_calls(None)
        return cls(chain.sampling_calls, chain.sampling_calls + again + chain.differentiated_calls)

    def optimization(self, updates: int, candidates: int = 1) -> int:
        """Calls of a whole optimisation: a search among candidates, the updates, and the image after the last one."""
        return self.searching(candidates) + updates * self.update + self.image

    def searching(self, candidates: int) -> int:
        """Calls of a search among so many candidates; a single one needs no search."""
        return candidates * self.image if candidates > 1 else 0

    @property
    def of_the_end(self) -> float:
        """Share of an update's calls that the image after the last one takes."""
        return self.image / self.update if self.update else 1.0


class Pace:
    """How long a round takes, by those after the first one that is seen, which may have had to warm up."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def seconds(self, made: int, spent: float) -> float:
        """Returns the seconds of a round, after so many rounds that took so many seconds together."""
        if self._first is None:
            self._first = (made, spent)
        rounds, before = self._first
        return spent / made if made <= rounds else (spent - before) / (made - rounds)


def work_that_fits(
    costs: Costs,
    budget: Budget,
    candidates: int,
    updates: int,
    share: float | None = None,
    max_updates: int | None = None,
) -> tuple[int, int]:
    """Returns how many candidates and how many updates a budget allows.

    Args:
        costs: Of the chain.
        budget: The most that a pair may cost: calls or seconds.
        candidates: How many the settings ask for; they count where there is no share.
        updates: How many the settings ask for; no budget leaves this number.
        share: Of the budget that the candidates may take, in (0, 1); an update, and the image after it, are always
            left. With seconds, the search ends when they are spent (`sgool.methods.candidates.CandidateSearch`).
        max_updates: The most updates; what they leave is for the candidates, beyond their share. None: as many as fit.

    Raises:
        SgoolError: The calls do not allow a single update after the search.
    """
    tried = _candidates_that_fit(costs, budget, candidates, share, max_updates)
    return tried, _updates_that_fit(costs, budget, updates, tried, max_updates)


def _candidates_that_fit(
    costs: Costs, budget: Budget, candidates: int, share: float | None, max_updates: int | None
) -> int:
    if share is None or not budget:
        return candidates
    if budget.calls is None:
        return MOST_ROUNDS
    for_search = min(int(share * budget.calls), budget.calls - costs.optimization(1))
    if max_updates is not None:
        for_search = max(for_search, budget.calls - costs.optimization(max_updates))
    return max(for_search // costs.image if costs.image else candidates, 1)


def _updates_that_fit(costs: Costs, budget: Budget, updates: int, candidates: int, max_updates: int | None) -> int:
    most = max_updates or MOST_ROUNDS
    if budget.calls is None:
        return updates if budget.seconds is None else most
    left = budget.calls - costs.searching(candidates) - costs.image
    fitting = left // costs.update if costs.update else most
    if fitting < 1:
        search = f"{candidates} candidates, " if candidates > 1 else ""
        raise SgoolError(
            f"`budget.calls`: expected at least {costs.optimization(1, candidates)} for {budget.method} ({search}one "
            f"update and the image after it), got {budget.calls}"
        )
    return int(min(fitting, most))


def images_that_fit(costs: Costs, budget: Budget, images: int) -> int:
    """Returns how many images the calls of a budget allow; without one ``images``.

    Raises:
        SgoolError: They do not allow a single one.
    """
    if budget.calls is None:
        return images if budget.seconds is None else MOST_ROUNDS
    check_fixed_cost(costs.image, budget)
    return budget.calls // costs.image if costs.image else images


def check_fixed_cost(calls: int, budget: Budget) -> None:
    """Refuses a budget below what a method takes, whose cost its settings do not change.

    Raises:
        SgoolError: It is below.
    """
    if budget.calls is not None and budget.calls < calls:
        raise SgoolError(f"`budget.calls`: expected at least {calls}, which {budget.method} takes, got {budget.calls}")


class TimeLimit(UpdateCallback):
    """Ends a batch after the update after which the next, and the image after it, would exceed the seconds.

    How long an update takes is the mean over those that the batch has made, earlier, interrupted starts included. At
    least one update is made. The number of updates depends on the machine, so results are not reproducible to the bit.
    """

    #: Before the results are made of a batch's last update, and before that is told.
    order = Trajectory.order - 2

    def __init__(self, planned: int) -> None:
        self._planned = planned

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Sets how many updates are shown before the first has been timed: those of the settings."""
        pl_module.batch.updates = max(self._planned, 2)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Ends the batch, or sets how many updates it is expected to get."""
        made = batch.update + 1
        limit = pl_module.budget.seconds * len(pl_module.pairs)
        one = (pl_module.seconds - pl_module.search.seconds) / made
        left = limit - pl_module.seconds - one * pl_module.costs.of_the_end
        if left < one or made >= pl_module.num_optimization_steps:
            batch.end()
        else:
            batch.updates = min(made + max(1, int(left // one)), pl_module.num_optimization_steps)
