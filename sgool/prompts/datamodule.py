"""Pairs as a LightningDataModule: batches that are optimised side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from sgool.errors import SgoolError
from sgool.prompts.seeds import load_pairs
from sgool.types import PromptSeed


class PromptDataModule(L.LightningDataModule):
    """Serves prompt-seed pairs in their order, as lists of ``pairs_per_fit``; the last list may be shorter.

    A file is read here and not in Lightning's ``prepare_data``, so that what is wrong with it shows before any model
    loads. On several processes each reads it, in the same order; a hub data set is downloaded once, under a lock.

    Args:
        pairs: The pairs, for example of `sgool.prompts.load_pairs`; or what that takes first: a prompt file, a built-in
            prompt set, "hub:OWNER/NAME" or a data set's folder.
        pairs_per_fit: Pairs per batch.
        options: For a file or data set: what else `sgool.prompts.load_pairs` takes (``seeds``, ``limit``, ``split``,
            ``prompt_column``, ...).

    Raises:
        SgoolError: No pairs, a batch size below 1, options beside a list of pairs, or a problem of the file.
    """

    def __init__(self, pairs: Sequence[PromptSeed] | str | Path, *, pairs_per_fit: int = 4, **options: Any) -> None:
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

    def train_dataloader(self) -> DataLoader[PromptSeed]:
        """Batches of pairs, in order."""
        return self._batches()

    def predict_dataloader(self) -> DataLoader[PromptSeed]:
        """Batches of pairs, in order."""
        return self._batches()

    def transfer_batch_to_device(
        self, batch: list[PromptSeed], device: torch.device, dataloader_idx: int
    ) -> list[PromptSeed]:
        """Leaves pairs as they are: they hold no tensors, and Lightning refuses to rebuild frozen dataclasses."""
        return batch

    def _batches(self) -> DataLoader[PromptSeed]:
        # A tuple is a map-style data set; collating into a list keeps pairs from being turned into tensors.
        return DataLoader(self.pairs, batch_size=self.pairs_per_fit, collate_fn=list)  # type: ignore[arg-type]
