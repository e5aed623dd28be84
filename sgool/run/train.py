"""The one place where a run calls Lightning's Trainer."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from sgool.errors import Interrupted
from sgool.methods.base import PairModule
from sgool.prompts.datamodule import PromptDataModule
from sgool.run.quiet import quiet_lightning


def train(module: PairModule, data: PromptDataModule, **options: Any) -> None:
    """Brings data, module, callbacks and loggers to a Trainer: a fit for a method that is trained, else a prediction.

    Args:
        module: The method.
        data: Its pairs.
        options: Of the Trainer: ``callbacks``, ``logger``, ``accelerator``, ``devices``, ``precision``, ...

    Raises:
        Interrupted: A SIGTERM that nobody else has dealt with.
        SgoolError: A Trainer under which pairs would change each other.
    """
    with quiet_lightning(), _own_exits():
        trainer = L.Trainer(
            max_epochs=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
            **options,
        )
        if module.makes_updates:
            trainer.fit(module, datamodule=data)
        else:
            trainer.predict(module, datamodule=data, return_predictions=False)


@contextmanager
def _own_exits() -> Iterator[None]:
    """Lightning turns Ctrl+C and SIGTERM into an exit of the process; whether to exit is not a Trainer's to decide."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as error:
        raise Interrupted("stopped by a SIGTERM") from error
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)  # Lightning has switched it off
        raise leaving.__context__ from None


def autocast_like(options: Mapping[str, Any], device: torch.device) -> AbstractContextManager[Any]:
    """Returns the autocast context in which a Trainer of these options would run a step."""
    precision = str(options.get("precision", "32-true"))
    if not precision.endswith("-mixed"):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision.startswith("bf16") else torch.float16)
