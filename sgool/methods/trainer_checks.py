"""Switches of Lightning's Trainer that would make wrong results, refused with a sentence each."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from sgool.errors import SgoolError
from sgool.methods.strategy import PairParallelStrategy
from sgool.prompts.batches import PairLoader

_PRECISIONS = {
    "16-true": "the latents would be rounded to half precision",
    "bf16-true": "the latents would be rounded to half precision",
    "16-mixed": "its loss scaling skips the step of a whole batch where one pair overflows",
}


def check_trainer(trainer: Trainer, stage: str, device: torch.device, dtypes: Set[torch.dtype] = frozenset()) -> None:
    """Refuses a Trainer under which pairs would change each other, be done twice, or wait for another device.

    Args:
        trainer: The Trainer.
        stage: Lightning's name of what it is about to do.
        device: That of the chain's networks, which are no children of the module: Lightning does not move them.
        dtypes: Those of the weights of the denoising network and the autoencoder.

    Raises:
        SgoolError: All that is wrong, a sentence each.
    """
    problems = [
        *_problems_of_all(trainer),
        *_problems_of_dtypes(str(trainer.precision), dtypes),
        *_problems_of_device(trainer.strategy.root_device, device),
        *(_problems_of_fits(trainer) if stage == "fit" else ()),
    ]
    if problems:
        raise SgoolError("; ".join(problems))


def check_own_pairs(trainer: Trainer, module: str, number: int) -> None:
    """Refuses pairs of a module's own on several processes: they are one batch, which nobody shares out.

    Args:
        trainer: The Trainer.
        module: Name of the module's class.
        number: How many pairs of its own it has; 0: a data module serves them.

    Raises:
        SgoolError: There are some, and several processes.
    """
    # Under the pair_parallel strategy each process seems to be the only one; the strategy has the true number.
    processes = max(trainer.world_size, getattr(trainer.strategy, "num_pair_ranks", 1))
    if number and processes > 1:
        raise SgoolError(
            f"`pairs`: {module} was made with {number} pairs of its own, which are one batch, and the Trainer has "
            f"{processes} processes: each of them would do all these pairs; leave `pairs` out and give the Trainer "
            "datamodule=PromptDataModule(pairs, pairs_per_fit=...), which shares its batches out, or use devices=1"
        )


def check_loader(loader: Any) -> None:
    """Refuses data loaders that do not serve batches of pairs, once an update.

    Raises:
        SgoolError: One of another kind.
    """
    if not isinstance(loader, PairLoader):
        raise SgoolError(
            f"expected batches of a PromptDataModule, got a {type(loader).__name__}: it does not say which update of "
            "which pairs comes next; use datamodule=PromptDataModule(...)"
        )


def _problems_of_all(trainer: Trainer) -> list[str]:
    problems = []
    precision = str(trainer.precision)
    if precision in _PRECISIONS:
        problems.append(
            f"`trainer.precision`: expected 32-true, 64-true or bf16-mixed, got {precision}: {_PRECISIONS[precision]}; "
            "for networks in half precision with float32 latents set `models.dtype` to float16 or bfloat16"
        )
    if trainer.world_size > 1 and not isinstance(trainer.strategy, PairParallelStrategy):
        problems.append(
            f"`strategy`: expected pair_parallel on {trainer.world_size} processes, got "
            f"{type(trainer.strategy).__name__}: it would give all of them the same latents and average their gradients"
        )
    return problems


def _problems_of_dtypes(precision: str, dtypes: Set[torch.dtype]) -> list[str]:
    if precision != "bf16-mixed" or torch.float16 not in dtypes:
        return []
    return [
        "`trainer.precision`: expected 32-true with networks in float16, got bf16-mixed, which would work in bfloat16; "
        "use one of the two"
    ]


def _problems_of_device(trainers: torch.device, chains: torch.device) -> list[str]:
    numbers = {trainers.index, chains.index} - {None}
    if trainers.type == chains.type and len(numbers) < 2:
        return []
    return [
        f"`accelerator`: the Trainer works on {trainers}, and the chain's networks are on {chains}; load them there, "
        f"with Chain.from_pretrained(..., device='{trainers}') and load_clip(..., device='{trainers}'), or use "
        f"Trainer(accelerator='{'gpu' if chains.type == 'cuda' else chains.type}')"
    ]


def _problems_of_fits(trainer: Trainer) -> list[str]:
    problems = []
    if trainer.max_epochs == 0:
        problems.append("`max_epochs`: expected 1, got 0: nothing would be optimised")
    elif trainer.max_epochs != 1:
        default = " (Lightning's default beside max_steps: epochs without end)" if trainer.max_epochs == -1 else ""
        problems.append(
            f"`max_epochs`: expected 1, got {trainer.max_epochs}{default}: a second epoch would optimise the same "
            "pairs again; how many updates a pair gets is the module's num_optimization_steps"
        )
    elif trainer.current_epoch >= 1:
        problems.append(
            "`trainer`: this Trainer has made its fit, and Lightning would skip another one; use a new Trainer"
        )
    if trainer.accumulate_grad_batches != 1:
        problems.append(
            f"`accumulate_grad_batches`: expected 1, got {trainer.accumulate_grad_batches}: every update is a step of "
            "its own"
        )
    if trainer.gradient_clip_val:
        problems.append(
            f"`gradient_clip_val`: expected None, got {trainer.gradient_clip_val}: it would clip all pairs of a batch "
            "together; use default_callbacks(grad_clip_value=...) or grad_clip_norm, which clip each pair"
        )
    couplers = (GradientAccumulationScheduler, StochasticWeightAveraging)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, couplers):
            problems.append(
                f"`callbacks`: expected no {type(callback).__name__}, which would mix the updates of different pairs"
            )
    if torch.is_inference_mode_enabled():
        problems.append("expected a fit outside of torch.inference_mode")
    return problems
