"""Runs pairs through a method by a quiet Trainer on the CPU, and gives the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool import Chain, Objective, PromptDataModule
from sgool.callbacks import PairCallback, Trajectory, default_callbacks
from sgool.diffusion import build_engine, build_sampler
from sgool.methods import LatentPairModule, PairModule
from sgool.models.stable_diffusion import StableDiffusion
from sgool.run.quiet import quiet_lightning
from sgool.types import PairResult, PromptSeed

#: Of an optimisation's settings, those of the module; the others are its callbacks'.
OF_THE_MODULE = (
    "num_optimization_steps",
    "lr",
    "momentum",
    "nesterov",
    "optimizer",
    "adam",
    "candidates",
    "search_share",
    "max_updates",
    "streams",
    "choosing",
    "budget",
)
#: What differs between two runs of the same pair.
OF_THE_MACHINE = ("seconds",)


class Results(PairCallback):
    """Keeps the results of all batches, in order."""

    order = 94

    def __init__(self) -> None:
        self.all: list[PairResult] = []
        self.batches: list[list[PairResult]] = []

    def on_pairs_end(self, trainer: L.Trainer, pl_module: Any, results: Sequence[PairResult]) -> None:
        self.all += results
        self.batches.append(list(results))


class Told(PairCallback):
    """Keeps (update, updates) of each update, candidate and denoising step that was made, from 1 on."""

    order = 94

    def __init__(self) -> None:
        self.updates: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.updates.append((batch.update + 1, batch.updates))

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch.updates > 1:
            self.updates.append((batch.update + 1, batch.updates))

    def on_denoising_step(self, trainer: L.Trainer, pl_module: Any, step: int, total: int) -> None:
        self.updates.append((step, total))


def chain_of(
    models: StableDiffusion, sampler: str = "ddim", engine: Any = None, sampler_options: Any = None, **options: Any
) -> Chain:
    """A chain; the engine by its name, or by its name and options in a dictionary."""
    engine = {"name": engine} if isinstance(engine, str) else engine or {"name": "checkpoint"}
    built = build_sampler(sampler, **(sampler_options or {}))
    return Chain(models, sampler=built, engine=build_engine(**engine), **options)


def quiet_trainer(callbacks: Sequence[L.Callback] = (), **options: Any) -> L.Trainer:
    """One epoch on the CPU, without files and bars, but for what the options ask for."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    own = {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False, **quiet}
    with quiet_lightning():
        return L.Trainer(callbacks=list(callbacks), **{**own, **options})


def run(
    module: PairModule,
    pairs: Sequence[PromptSeed],
    callbacks: Sequence[L.Callback] = (),
    *,
    pairs_per_fit: int | None = None,
    ckpt_path: Any = None,
    **trainer: Any,
) -> list[PairResult]:
    """Trains a method that is trained, and predicts with any other; by default all pairs are one batch.

    Args:
        module: The method.
        pairs: Served by a data module.
        callbacks: Of the Trainer.
        pairs_per_fit: Pairs in a batch.
        ckpt_path: A Lightning checkpoint to go on from.
        trainer: Further options of the Trainer.

    Returns:
        A result for each pair of the batches that were done.
    """
    kept = Results()
    data = PromptDataModule(list(pairs), pairs_per_fit=pairs_per_fit or len(pairs))
    own = quiet_trainer([*callbacks, kept], **trainer)
    with quiet_lightning():
        if isinstance(module, LatentPairModule):
            own.fit(module, datamodule=data, ckpt_path=ckpt_path)
        else:
            own.predict(module, datamodule=data, return_predictions=False)
    return kept.all


def optimisation(chain: Chain, objective: Objective, **settings: Any) -> tuple[LatentPairModule, list[L.Callback]]:
    """A module and its callbacks from settings of both, as ``optimization`` of the configuration has them."""
    own = {key: settings.pop(key) for key in OF_THE_MODULE if key in settings}
    return LatentPairModule(chain, objective, **own), default_callbacks(**settings)


def optimise(
    chain: Chain,
    objective: Objective,
    pairs: Sequence[PromptSeed],
    callbacks: Sequence[L.Callback] = (),
    trainer: dict[str, Any] | None = None,
    **settings: Any,
) -> list[PairResult]:
    """The results of an `optimisation` with further callbacks and options of the Trainer."""
    module, own = optimisation(chain, objective, **settings)
    return run(module, pairs, [*own, *callbacks], **(trainer or {}))


def trajectory_of(callbacks: Sequence[L.Callback]) -> Trajectory:
    """What keeps the way of the pairs."""
    return next(callback for callback in callbacks if isinstance(callback, Trajectory))


def assert_same(found: Sequence[PairResult], expected: Sequence[PairResult]) -> None:
    """Every field of every result, to the last bit, but for what is the machine's."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for field in fields(PairResult):
            if field.name not in OF_THE_MACHINE:
                _assert_equal(getattr(one, field.name), getattr(other, field.name), field.name)


def _assert_equal(one: Any, other: Any, name: str) -> None:
    assert type(one) is type(other), name
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{name}: {text}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), name
        for index, pair in enumerate(zip(one, other, strict=True)):
            _assert_equal(*pair, f"{name}[{index}]")
    elif isinstance(one, dict):
        assert list(one) == list(other), name
        for key in one:
            _assert_equal(one[key], other[key], f"{name}.{key}")
    else:
        assert one == other or (one != one and other != other), f"{name}: {one} is not {other}"
