"""The LightningDataModule that serves prompt-seed pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from sgool.errors import SgoolError
from sgool.prompts.batches import Batches, PairLoader, in_batches, share
from sgool.prompts.seeds import load_pairs
from sgool.types import PromptSeed


class PromptDataModule(L.LightningDataModule):
    """Serves prompt-seed pairs in their order, ``pairs_per_fit`` side by side; the last batch may be shorter.

    ``Trainer.fit(module, datamodule=data)`` gets each batch once for every update (see `PairLoader`).
    ``Trainer.predict`` and ``Trainer.test`` get each batch once, or once for every candidate of a search. Several
    processes share the batches.

    A file is read here and not in Lightning's ``prepare_data``, so that its problems are reported before any model
    loads. If there are several processes, each reads it, in the same order; a hub data set is downloaded once, under a
    lock.

    Args:
        pairs: The pairs, for example those of `sgool.prompts.load_pairs`. Or its first argument: a prompt file, a
            built-in prompt set, "hub:OWNER/NAME" or a data set's folder.
        pairs_per_fit: Pairs per batch.
        sampler: Source of the batches; None: the pairs are cut into batches and shared among the processes.
        options: Further arguments of `sgool.prompts.load_pairs` (``seeds``, ``limit``, ``split``, ``prompt_column``,
            ...), if ``pairs`` is a file or data set.

    Raises:
        SgoolError: There are no pairs, the batch size is below 1, options are given with a list of pairs, or the file
            has a problem.

    Examples:
        >>> from sgool import PromptDataModule
        >>> data = PromptDataModule("emoji_world/demo", seeds=[0, 1], limit=4, pairs_per_fit=2)
        >>> [(pair.prompt, pair.seed) for pair in data.pairs[:2]]
        [('a purple house and a red banana', 0), ('a purple house and a red banana', 1)]
    """

    def __init__(
        self,
        pairs: Sequence[PromptSeed] | str | Path,
        *,
        pairs_per_fit: int = 4,
        sampler: Batches | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(pairs, (str, Path)):
            pairs = load_pairs(pairs, **options)
        elif options:
            raise SgoolError(f"{', '.join(options)}: expected only with a prompt file, got a list of pairs")
        if not pairs:
            raise SgoolError("`pairs`: expected at least one prompt-seed pair, got none")
        if pairs_per_fit < 1:
            raise SgoolError(f"`trainer.pairs_per_fit`: expected a whole number of at least 1, got {pairs_per_fit}")
        self.pairs = tuple(pairs)
        self.pairs_per_fit = pairs_per_fit
        self._sampler = sampler

    def train_dataloader(self) -> PairLoader:
        """Returns a loader that serves each batch once for every update, in order."""
        return self._loader("num_optimization_steps")

    def predict_dataloader(self) -> PairLoader:
        """Returns a loader that serves each batch once, or once for every candidate of a search, in order."""
        return self._loader("num_rounds")

    def test_dataloader(self) -> PairLoader:
        """Returns a loader that serves each batch once, or once for every candidate of a search, in order."""
        return self._loader("num_rounds")

    def _loader(self, count: str) -> PairLoader:
        module = self.trainer.lightning_module if self.trainer is not None else None
        return PairLoader(self._batches(), int(getattr(module, count, 1)))

    def _batches(self) -> Batches:
        if self._sampler is not None:
            return self._sampler
        batches = in_batches(self.pairs, self.pairs_per_fit)
        if self.trainer is None:
            return batches
        strategy = self.trainer.strategy
        # Under the pair_parallel strategy each process seems to be the only one; the strategy has the true numbers.
        rank = getattr(strategy, "pair_rank", self.trainer.global_rank)
        ranks = getattr(strategy, "num_pair_ranks", self.trainer.world_size)
        if ranks > len(batches):
            raise SgoolError(
                f"`devices`: expected at most one process a batch, got {ranks} for {len(batches)} batches of up to "
                f"{self.pairs_per_fit} pairs; use fewer devices or a smaller pairs_per_fit"
            )
        return share(batches, rank, ranks)
