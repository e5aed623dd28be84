"""The data module, under a real Trainer."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from sgool.errors import ConfigError, SgoolError
from sgool.prompts import expand_pairs
from sgool.prompts.batches import PairBatch, PairLoader
from sgool.prompts.datamodule import PromptDataModule


class _Collect(L.LightningModule):
    """Keeps what it is given: pairs, update, how often they are served, whether this is the last time."""

    num_optimization_steps, num_rounds = 3, 2

    def __init__(self, ends: dict[int, int] | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.ends = ends or {}
        self.batches: list[PairBatch] = []
        self.seen: list[tuple[Any, int, int, bool]] = []

    def _take(self, batch: PairBatch) -> None:
        if self.ends.get(batch.index) == batch.update:
            batch.end()
        self.batches.append(batch)
        self.seen.append((batch.pairs, batch.update, batch.updates, batch.is_over))

    def training_step(self, batch: PairBatch, batch_idx: int) -> torch.Tensor:
        self._take(batch)
        return self.weight

    def predict_step(self, batch: PairBatch, batch_idx: int) -> int:
        self._take(batch)
        return len(batch.pairs)

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        self._take(batch)

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


def test_batches_have_pairs_in_order() -> None:
    pairs = expand_pairs(["a", "b", "c"], 3)
    # Without a Trainer there is no module that says how often a batch is to be served: once.
    batches = list(PromptDataModule(pairs, pairs_per_fit=4).predict_dataloader())
    assert [len(batch.pairs) for batch in batches] == [4, 4, 1]
    assert [pair for batch in batches for pair in batch.pairs] == pairs
    assert [(batch.index, batch.update, batch.updates, batch.is_over) for batch in batches] == [
        (index, 0, 1, True) for index in range(3)
    ]


@pytest.mark.parametrize("stage", ["fit", "predict", "test"])
def test_lightning_hands_the_pairs_on_unchanged_once_an_update(stage: str) -> None:
    pairs, module = expand_pairs(["a", "b", "c"]), _Collect()
    data, trainer = PromptDataModule(pairs, pairs_per_fit=2), _trainer()
    if stage == "predict":
        assert trainer.predict(module, datamodule=data) == [2, 2, 1, 1]
    else:
        getattr(trainer, stage)(module, datamodule=data)
    times = 3 if stage == "fit" else 2
    first, second = tuple(pairs[:2]), tuple(pairs[2:])
    assert module.seen == [
        (batch, update, times, update == times - 1) for batch in (first, second) for update in range(times)
    ]
    assert module.seen[0][0][0] is pairs[0]
    # The same object at every update of its pairs.
    assert len({id(batch) for batch in module.batches}) == 2


def test_a_batch_that_ends_early_makes_room_for_the_next() -> None:
    pairs, module = expand_pairs(["a", "b", "c"]), _Collect(ends={1: 0, 2: 1})
    trainer = _trainer()
    trainer.fit(module, datamodule=PromptDataModule(pairs, pairs_per_fit=1))
    assert [(batch[0].prompt, update) for batch, update, *_ in module.seen] == [
        ("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1),
    ]  # fmt: skip
    assert trainer.global_step == 6


def test_the_loader_goes_on_where_its_state_was_taken() -> None:
    pairs = expand_pairs(["a", "b", "c"])

    def served(loader: PairLoader, most: int = 100) -> list[tuple[str, int]]:
        return [(batch.pairs[0].prompt, batch.update) for batch in islice(loader, most)]

    def loader() -> PairLoader:
        return PairLoader([(pair,) for pair in pairs], 2)

    whole = served(loader())
    assert whole == [(prompt, update) for prompt in "abc" for update in (0, 1)] and len(loader()) == 6
    assert loader().state_dict() == {"batch": 0, "update": 0}
    for count in range(len(whole) + 1):
        first, second = loader(), loader()
        iterator = iter(first)
        done = [next(iterator) for _ in range(count)]
        assert len(done) == count
        second.load_state_dict(first.state_dict())
        assert second.state_dict() == first.state_dict()
        assert served(second) == whole[count:]
        assert served(second) == whole  # an epoch later
    # A batch that was ended is not gone back to.
    first, second = loader(), loader()
    next(iter(first)).end()
    second.load_state_dict(first.state_dict())
    assert served(second) == whole[2:]


def test_batches_come_from_a_sampler_where_there_is_one() -> None:
    pairs = expand_pairs(["a", "b", "c"])
    module = _Collect()
    _trainer().predict(module, datamodule=PromptDataModule(pairs, sampler=[(pairs[2],), tuple(pairs[:2])]))
    assert [len(batch) for batch, *_ in module.seen] == [1, 1, 2, 2]


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
