"""One Lightning fit of a batch of pairs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning as L
import torch

from sgool.errors import SgoolError
from sgool.module import LatentPairModule


class UpdateProgress(L.Callback):
    """Reports each update to a function."""

    def __init__(self, report: Any) -> None:
        self._report = report

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Calls the function with (update, of how many)."""
        self._report(trainer.global_step, pl_module.num_optimization_steps)


class LossLogger(L.Callback):
    """Logs each update's mean loss, selection score and terms over the batch to the trainer's loggers."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs what this update saw before its step."""
        seen = pl_module.evaluation
        values = {"loss": seen.loss.mean(), "selection": seen.selection.mean()}
        values |= {f"term/{name}": value.mean() for name, value in seen.output.terms.items()}
        pl_module.log_dict({name: float(value) for name, value in values.items()})


def fit_module(
    module: LatentPairModule,
    callbacks: Sequence[L.Callback],
    *,
    options: Mapping[str, Any],
    logger: Sequence[Any] = (),
    on_update: Any = None,
) -> None:
    """Runs ``module.num_optimization_steps`` updates with a Lightning Trainer.

    Raises:
        SgoolError: A precision that would couple the pairs or round their latents.
    """
    _check_precision(str(options.get("precision", "32-true")))
    extra: list[L.Callback] = [LossLogger()] if logger else []
    extra += [UpdateProgress(on_update)] if on_update else []
    with quiet_lightning():
        trainer = L.Trainer(
            max_steps=module.num_optimization_steps,
            max_epochs=1,
            callbacks=[*callbacks, *extra],
            logger=list(logger) or False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            log_every_n_steps=1,
            **options,
        )
        trainer.fit(module)


def _check_precision(precision: str) -> None:
    why = {
        "16-true": "the latents would be rounded to half precision",
        "bf16-true": "the latents would be rounded to half precision",
        "16-mixed": "its loss scaling skips the step of a whole batch where one pair overflows",
    }
    if precision in why:
        raise SgoolError(
            f"`trainer.precision`: expected 32-true, 64-true or bf16-mixed, got {precision}: {why[precision]}; for "
            "networks in half precision with float32 latents set `models.dtype` to float16 or bfloat16"
        )


def autocast_like(options: Mapping[str, Any], device: torch.device) -> AbstractContextManager[Any]:
    """The autocast context that a Trainer of these options would run a step in."""
    precision = str(options.get("precision", "32-true"))
    if not precision.endswith("-mixed"):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision.startswith("bf16") else torch.float16)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silences what Lightning says at each of hundreds of fits; errors still show."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
