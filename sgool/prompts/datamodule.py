"""Prompt-seed pairs as a LightningDataModule."""

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

    ``Trainer.fit(module, datamodule=data)`` gets each batch once an update of the module (`PairLoader`), and
    ``Trainer.predict`` or ``test`` once, or as often as the module has candidates. Several processes share the batches.

    A file is read here and not in Lightning's ``prepare_data``, so that what is wrong with it shows before any model
    loads. On several processes each reads it, in the same order; a hub data set is downloaded once, under a lock.

    Args:
        pairs: The pairs, for example of `sgool.prompts.load_pairs`; or what that takes first: a prompt file, a built-in
            prompt set, "hub:OWNER/NAME" or a data set's folder.
        pairs_per_fit: Pairs per batch.
        sampler: Where the batches come from, in place of the pairs cut into batches and shared among the processes.
        options: For a file or data set: what else `sgool.prompts.load_pairs` takes (``seeds``, ``limit``, ``split``,
            ``prompt_column``, ...).

    Raises:
        SgoolError: No pairs, a batch size below 1, options beside a list of pairs, or a problem of the file.
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
        """Each batch once an update, in order."""
        return self._loader("num_optimization_steps")

    def predict_dataloader(self) -> PairLoader:
        """Each batch once, or once a candidate, in order."""
        return self._loader("num_rounds")

    def test_dataloader(self) -> PairLoader:
        """As for prediction."""
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
        # A strategy that keeps its ranks apart tells them all that they are alone; it has their true numbers.
        rank = getattr(strategy, "pair_rank", self.trainer.global_rank)
        ranks = getattr(strategy, "num_pair_ranks", self.trainer.world_size)
        if ranks > len(batches):
            raise SgoolError(
                f"`devices`: expected at most one process a batch, got {ranks} for {len(batches)} batches of up to "
                f"{self.pairs_per_fit} pairs; use fewer devices or a smaller pairs_per_fit"
            )
        return share(batches, rank, ranks)
