"""One Lightning fit of a batch of pairs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from sgool.callbacks import FitCheckpoint
from sgool.errors import Interrupted, SgoolError
from sgool.methods.latent_pairs import LatentPairModule
from sgool.methods.quiet import quiet_lightning


class UpdateProgress(L.Callback):
    """Reports each update to a function."""

    def __init__(self, report: Any) -> None:
        self._report = report

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Calls the function with (update, of how many, mean loss, mean selection score)."""
        seen = pl_module.evaluation
        loss, score = float(seen.loss.mean()), float(seen.selection.mean())
        self._report(trainer.global_step, pl_module.num_optimization_steps, loss, score)


def fit_module(
    module: LatentPairModule,
    callbacks: Sequence[L.Callback],
    *,
    options: Mapping[str, Any],
    logger: Sequence[Any] = (),
    on_update: Callable[..., None] | None = None,
    checkpoint: FitCheckpoint | None = None,
    resume_from: Path | None = None,
) -> None:
    """Runs ``module.num_optimization_steps`` updates with a Lightning Trainer.

    Args:
        module: The pairs.
        callbacks: In their order.
        options: Of the Trainer; ``extra_callbacks`` (a list) run after those above.
        logger: Lightning loggers.
        on_update: Called with (updates done, of how many, mean loss, mean score) after each one.
        checkpoint: Writes checkpoints and ends the fit where that is asked for; runs last.
        resume_from: A checkpoint of the same fit, to go on from; its rest is done.

    Raises:
        Interrupted: The fit was ended before its time by ``checkpoint``, or by a SIGTERM.
        SgoolError: A precision that would couple the pairs or round their latents.
    """
    _check_precision(str(options.get("precision", "32-true")))
    options = dict(options)
    extra: list[L.Callback] = [UpdateProgress(on_update)] if on_update else []
    extra += options.pop("extra_callbacks", [])
    extra += [checkpoint] if checkpoint is not None else []
    with quiet_lightning():
        trainer = L.Trainer(
            max_steps=module.num_optimization_steps,
            max_epochs=1,
            callbacks=[*callbacks, *extra],
            logger=list(logger) or False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
            **options,
        )
        with _own_exits(module):
            trainer.fit(module, ckpt_path=resume_from, weights_only=None if resume_from is None else True)
    if module.interrupted:
        raise Interrupted(
            f"stopped after update {trainer.global_step} of {module.num_optimization_steps}, as it was asked to"
        )


@contextmanager
def _own_exits(module: LatentPairModule) -> Iterator[None]:
    """Lightning turns Ctrl+C and SIGTERM into an exit of the process; whether to exit is not a fit's to decide."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException:
        module.interrupted = True
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)  # Lightning has switched it off
        raise leaving.__context__ from None


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
