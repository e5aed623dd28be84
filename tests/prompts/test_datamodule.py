"""The data module, under a real Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from sgool.errors import ConfigError, SgoolError
from sgool.prompts import expand_pairs
from sgool.prompts.datamodule import PromptDataModule


class _Collect(L.LightningModule):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch)
        return self.weight

    def predict_step(self, batch: Any, batch_idx: int) -> int:
        self.seen.append(batch)
        return len(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _trainer() -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_batches_are_lists_of_pairs_in_order() -> None:
    pairs = expand_pairs(["a", "b", "c"], 3)
    batches = list(PromptDataModule(pairs, pairs_per_fit=4).predict_dataloader())
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert [pair for batch in batches for pair in batch] == pairs
    assert all(isinstance(batch, list) for batch in batches)


@pytest.mark.parametrize("stage", ["fit", "predict"])
def test_lightning_hands_the_pairs_on_unchanged(stage: str) -> None:
    pairs, module = expand_pairs(["a", "b", "c"]), _Collect()
    data = PromptDataModule(pairs, pairs_per_fit=2)
    if stage == "fit":
        _trainer().fit(module, datamodule=data)
    else:
        assert _trainer().predict(module, datamodule=data) == [2, 1]
    assert module.seen == [pairs[:2], pairs[2:]]
    assert module.seen[0][0] is pairs[0]


def test_a_file_will_do(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\na dog\n", encoding="utf-8")
    data = PromptDataModule(tmp_path / "a.txt", seeds=[1, 2], limit=3)
    assert [(pair.prompt, pair.seed) for pair in data.pairs] == [("a cat", 1), ("a cat", 2), ("a dog", 1)]


def test_all_that_is_wrong_with_a_file_is_said_before_there_is_a_trainer(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("title,kind\na cat,x\n,y\na cat,x\n", encoding="utf-8")
    options = {"prompt_column": "title", "category_column": "kind"}
    with pytest.raises(ConfigError) as caught:
        PromptDataModule(tmp_path / "a.csv", **options)
    assert len(caught.value.problems) == 2
    (tmp_path / "a.csv").write_text("title,kind\na cat,x\na dog,y\n", encoding="utf-8")
    data = PromptDataModule(tmp_path / "a.csv", indices="1:", **options)
    assert [(pair.prompt, pair.category, pair.index) for pair in data.pairs] == [("a dog", "y", 1)]


def test_bad_input() -> None:
    pairs = expand_pairs(["a"])
    with pytest.raises(SgoolError, match="at least one prompt-seed pair, got none"):
        PromptDataModule([])
    with pytest.raises(SgoolError, match="pairs_per_fit`: expected a whole number of at least 1, got 0"):
        PromptDataModule(pairs, pairs_per_fit=0)
    with pytest.raises(SgoolError, match="seeds, limit: expected only with a prompt file"):
        PromptDataModule(pairs, seeds=3, limit=1)
