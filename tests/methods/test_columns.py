"""Other columns of a prompt (`PromptSeed.metadata`), on which targets may depend: a batch under way begins anew."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from sgool import BestOfN, LatentPairModule, Objective, PromptDataModule, PromptSeed
from sgool.callbacks import BatchCheckpoint
from sgool.errors import Interrupted, SgoolError
from sgool.methods.resume import columns_of
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings
from tests.fits import chain_of, quiet_trainer


class Tone:
    """A term: the distance to the grey of the pair's own column."""

    name, input_size = "tone", None

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        return torch.tensor([[float(pair.metadata.get("tone", 0.5))] for pair in pairs])

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        return (views.mean(dim=(1, 2, 3)) - targets[:, 0].to(views)).square()


def objective() -> Objective:
    return Objective({"tone": Tone()}, crops=CropSettings(num=0))


def search(models: StableDiffusion) -> BestOfN:
    return BestOfN(chain_of(models, num_inference_steps=1, guidance_scale=0), objective(), num_candidates=3)


def settings_of(models: StableDiffusion, *columns: Mapping[str, Any]) -> list[Any]:
    module = search(models)
    module.pairs = tuple(PromptSeed("a cat", metadata=own) for own in columns)
    return module.checkpoint_settings()


def test_the_settings_of_a_checkpoint_have_the_columns_that_there_are(models: StableDiffusion) -> None:
    plain = settings_of(models, {}, {})
    assert len(settings_of(models, {"tone": "1"}, {})) == len(plain) + 1
    for columns, text in (({"tone": 1}, '{"tone": 1}'), ({"tone": 2}, '{"tone": 2}')):
        assert text in [setting for setting in settings_of(models, columns) if isinstance(setting, str)]


@pytest.mark.parametrize("removed", [False, True])
def test_a_batch_under_way_begins_anew_where_a_column_has_changed(
    models: StableDiffusion, tmp_path: Path, removed: bool
) -> None:
    class Rounds(L.Callback):
        def __init__(self) -> None:
            self.made: list[int] = []

        def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
            self.made.append(batch.update)

    def predict(columns: dict[str, Any], interrupted: bool) -> tuple[list[int], list[str]]:
        notes: list[str] = []
        rounds = Rounds()
        kept = BatchCheckpoint(
            lambda pairs: tmp_path / "batch.ckpt", every=1, interrupted=lambda: interrupted, on_note=notes.append
        )
        data = PromptDataModule([PromptSeed("a cat", metadata=columns)], pairs_per_fit=1)
        trainer = quiet_trainer([rounds, kept])
        if interrupted:
            with pytest.raises(Interrupted):
                trainer.predict(search(models), datamodule=data)
        else:
            trainer.predict(search(models), datamodule=data)
        return rounds.made, notes

    assert predict({"tone": "0", "other": 1}, interrupted=True) == ([0], [])
    made, notes = predict({"tone": "1", "other": 1} if not removed else {}, interrupted=False)
    assert made == [0, 1, 2] and "is of other settings: the fit starts anew" in notes[0]
    (tmp_path / "batch.ckpt").unlink()
    predict({"tone": "0", "other": 1}, interrupted=True)
    made, notes = predict({"other": 1, "tone": "0"}, interrupted=False)
    assert made[-1] == 2 and not notes  # the order of columns does not matter


def test_a_lightning_checkpoint_of_other_columns_is_refused(models: StableDiffusion, tmp_path: Path) -> None:
    def fit(columns: dict[str, Any], **options: Any) -> None:
        chain = chain_of(models, num_inference_steps=1, guidance_scale=0)
        module = LatentPairModule(chain, objective(), num_optimization_steps=3)
        kept = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = quiet_trainer([kept], enable_checkpointing=True)
        trainer.fit(module, datamodule=PromptDataModule([PromptSeed("a cat", metadata=columns)]), **options)

    fit({"tone": "0"})
    path = str(tmp_path / "step=1.ckpt")
    with pytest.raises(
        SgoolError, match=r'prompts-00000.* has other columns .* was {"tone": "0"}, is {"tone": "1"}; use'
    ):
        fit({"tone": "1"}, ckpt_path=path)
    fit({"tone": "0"}, ckpt_path=path)


def test_columns_of_any_kind_have_a_text_that_stays() -> None:
    class Thing:
        """Its text names a place in memory."""

    def text(**columns: Any) -> str:
        return columns_of(PromptSeed("a cat", metadata=columns))

    assert text(a=Thing()) == text(a=Thing()) and "0x" not in text(a=Thing())
    assert text(a=np.arange(3), b=np.float64(0.5)) == text(b=0.5, a=[0, 1, 2]) != text(a=[0, 1, 3], b=0.5)
    assert text(day=datetime.date(2024, 1, 1)) != text(day=datetime.date(2024, 1, 2))
    assert text(a={"y", "x"}) == text(a={"x", "y"}) and text(a=float("nan")) == text(a=float("nan"))
    assert text(a=(1, {"b": None})) == text(a=[1, {"b": None}]) != text(a=[True, {"b": None}])
