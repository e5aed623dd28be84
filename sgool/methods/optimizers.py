"""The optimisers of latents: SGD as DOODL and ReNO use it, Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from sgool.errors import SgoolError

OPTIMIZERS = ("sgd", "adam", "adamw")
#: Parts of Adam's state, as torch names them.
_OF_ADAM = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimiser makes the steps, and how.

    Attributes:
        name: "sgd", "adam" (Kingma and Ba 2015) or "adamw" (Loshchilov and Hutter 2019).
        momentum: Of SGD, in [0, 1): b = momentum b + g without dampening. Adam has none.
        nesterov: Nesterov's momentum, of SGD.
        adam: Any of "betas" (two numbers in [0, 1)), "eps" and "weight_decay" (of Adam, added to the gradient; of
            AdamW, apart from it). What is left out is torch's own, but for a weight decay of 0.

    Raises:
        SgoolError: An unknown name, Nesterov without SGD's momentum, or a weight decay for SGD.
    """

    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    adam: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise SgoolError(f"`optimization.optimizer`: expected one of {', '.join(OPTIMIZERS)}, got {self.name!r}")
        if self.nesterov and self.name != "sgd":
            raise SgoolError(
                f"`optimization.nesterov`: expected false with optimizer={self.name}, whose betas take the momentum's "
                "place; got true"
            )
        if self.nesterov and not self.momentum:
            raise SgoolError(
                "`optimization.nesterov`: expected a momentum above 0, got 0; there is nothing to look ahead"
            )
        if self.name == "sgd" and self.adam.get("weight_decay"):
            raise SgoolError(
                f"`optimization.adam.weight_decay`: expected 0 with optimizer=sgd, got {self.adam['weight_decay']}"
            )

    def build(self, latents: torch.nn.Parameter, lr: float) -> Optimizer:
        """Makes the optimiser of a module's latents, with a learning rate."""
        if self.name == "sgd":
            return SGD([latents], lr=lr, momentum=self.momentum, nesterov=self.nesterov)
        options = {"weight_decay": 0.0, **self.adam}
        options["betas"] = tuple(options.get("betas", (0.9, 0.999)))
        return (Adam if self.name == "adam" else AdamW)([latents], lr=lr, **options)

    def checkpoint_settings(self) -> list[Any]:
        """All settings that a step depends on, beside the learning rate.

        Those of SGD are as they were in releases that had no other, so that their checkpoints can be taken up.
        """
        own: list[Any] = [self.momentum, self.nesterov]
        return own if self.name == "sgd" else [*own, self.name, *sorted(self.adam.items())]


def check_updates(num_optimization_steps: int, max_updates: int | None = None) -> None:
    """Checks the number of updates, and the most that a budget may buy.

    Raises:
        SgoolError: There are none.
    """
    if max_updates is not None and max_updates < 1:
        raise SgoolError(f"`optimization.max_updates`: expected 1 or more, or None, got {max_updates}")
    if num_optimization_steps < 1:
        raise SgoolError(
            f"`optimization.num_optimization_steps`: expected 1 or more, got {num_optimization_steps}; "
            "the method `vanilla` makes images without updates"
        )


def optimizer_state(optimizer: Optimizer, latents: Tensor) -> dict[str, Any]:
    """Returns what an optimiser remembers of the batch's latents, on the CPU; None for what it has not got."""
    state = optimizer.state[latents]
    momentum = state.get("momentum_buffer")
    adam = {name: state[name].detach().cpu().clone() for name in _OF_ADAM if name in state}
    return {"momentum": None if momentum is None else momentum.detach().cpu(), "adam": adam or None}


def restore_optimizer_state(optimizer: Optimizer, latents: Tensor, saved: Mapping[str, Any]) -> None:
    """Restores an `optimizer_state`."""
    state = optimizer.state[latents]
    if saved["momentum"] is not None:
        state["momentum_buffer"] = saved["momentum"].to(latents)
    # Checkpoints of earlier releases know SGD alone.
    for name, value in (saved.get("adam") or {}).items():
        # The number of steps is a float32 on the CPU, wherever the latents are.
        state[name] = value.clone() if name == "step" else value.to(latents)
