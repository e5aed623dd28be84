"""What is said where a loop of the Trainer ends too early, and where several processes would do the same pairs."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
import pytest

from sgool import BestOfN, LatentPairModule, Objective, PromptDataModule, PromptSeed, TextAlignment, Vanilla
from sgool.callbacks import BatchCheckpoint
from sgool.errors import SgoolError
from sgool.methods import FKSteering, PairModule
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings
from tests.fits import chain_of, quiet_trainer

PAIRS = [PromptSeed("a cat"), PromptSeed("a dog", index=1)]


@pytest.fixture
def methods(models: StableDiffusion, clip_tower: ClipTower) -> dict[str, PairModule]:
    chain = chain_of(models, num_inference_steps=3, guidance_scale=0)
    objective = Objective({"text": TextAlignment(clip_tower)}, crops=CropSettings(num=0))
    return {
        "vanilla": Vanilla(chain, pairs=PAIRS),
        "best_of_n": BestOfN(chain, objective, num_candidates=3, pairs=PAIRS),
        "fk_steering": FKSteering(chain, objective, particles=2, pairs=PAIRS),
        "optimize": LatentPairModule(chain, objective, num_optimization_steps=3, pairs=PAIRS),
    }


@pytest.mark.parametrize("name", ["best_of_n", "fk_steering"])
@pytest.mark.parametrize(("stage", "word"), [("predict", "prediction"), ("test", "test")])
def test_a_search_that_is_cut_short_says_so(methods: dict[str, PairModule], name: str, stage: str, word: str) -> None:
    module, limit = methods[name], f"limit_{stage}_batches"
    rounds = module.num_rounds
    expected = (
        rf"the {word} ended after round 2 of {rounds} of 2 pairs, which leaves them without a result: leave {limit} "
        rf"out, or raise it to a multiple of {rounds} \("
    )
    with pytest.warns(UserWarning, match=expected):
        getattr(quiet_trainer(**{limit: 2}), stage)(module)
    assert not module.results


def test_nothing_is_said_where_all_is_done_or_kept(methods: dict[str, PairModule], tmp_path: Any) -> None:
    kept = BatchCheckpoint(lambda pairs: tmp_path / "batch.ckpt", every=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* without a result")
        quiet_trainer().predict(methods["best_of_n"])
        quiet_trainer(limit_predict_batches=1).predict(methods["vanilla"])
        quiet_trainer(fast_dev_run=True).predict(methods["best_of_n"])
        quiet_trainer([kept], limit_predict_batches=2).predict(methods["best_of_n"])
    assert (tmp_path / "batch.ckpt").is_file()


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("stage", ["fit", "predict", "test"])
def test_pairs_of_its_own_are_refused_on_several_devices(
    methods: dict[str, PairModule], stage: str, devices: int
) -> None:
    trainer = L.Trainer(accelerator="cpu", devices=devices, strategy="pair_parallel", logger=False, max_epochs=1)
    module = methods["optimize" if stage == "fit" else "best_of_n"]
    module.trainer = trainer
    expected = (
        rf"`pairs`: {type(module).__name__} was made with 2 pairs of its own, which are one batch, and the Trainer "
        rf"has {devices} processes: .*datamodule=PromptDataModule\(pairs, pairs_per_fit="
    )
    with pytest.raises(SgoolError, match=expected):
        module.setup(stage)


def test_pairs_of_a_data_module_are_shared_out(models: StableDiffusion) -> None:
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy="pair_parallel", logger=False)
    module = Vanilla(chain_of(models))
    module.trainer = trainer
    trainer.datamodule = PromptDataModule(PAIRS, pairs_per_fit=1)  # type: ignore[attr-defined]
    module.setup("predict")
    assert list(module.all_pairs) == list(PAIRS)
