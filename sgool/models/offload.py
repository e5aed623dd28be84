"""Networks that wait in the memory of the CPU while they do not work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

#: What diffusers' networks are called by, beside `forward`.
_METHODS = ("forward", "encode", "decode")


@dataclass(frozen=True)
class WorksOn:
    """Says of a network that waits elsewhere where it works.

    Attributes:
        execution_device: Where it works. diffusers' pipelines look for it under this name.
    """

    execution_device: torch.device


def says_where(network: Any, device: torch.device) -> None:
    """Lets a network say where it works, also while it waits elsewhere."""
    # A tensor's device has a number where the device's name may have none.
    network._hf_hook = WorksOn(torch.empty(0, device=device).device)


def working_device(network: Any) -> torch.device:
    """Returns the device that a network of diffusers works on, which may be another than that of its weights now."""
    device: Any = getattr(getattr(network, "_hf_hook", None), "execution_device", None)
    if device is None:
        device = next(network.parameters()).device
    return torch.device(device)


class Turns:
    """Networks that take turns on a device: one of them is there, the others wait.

    A network comes when one of its methods is called, and again when the gradient of its output arrives in backward. It
    stays until another one comes, since its own backward pass follows. The numbers do not change: each works on the
    device alone, with the same weights.

    Args:
        device: Where networks work.
        waiting: Where they wait.
    """

    def __init__(self, device: Any, waiting: Any = "cpu") -> None:
        self.device, self.waiting = device, waiting
        self._there: nn.Module | None = None

    def add(self, network: nn.Module) -> None:
        """Lets a network wait, and come whenever it is called."""
        _move(network, self.waiting)
        for name in _METHODS:
            if callable(method := getattr(network, name, None)):
                # On the method and not as a hook of torch's: recomputation may call it past `__call__`.
                setattr(network, name, self._coming(network, method))

    def fetch(self, network: nn.Module) -> None:
        """Brings a network to the device, after the one that is there has left."""
        if self._there is network:
            return
        self.clear()
        try:
            _move(network, self.device)
        except BaseException:  # a device without memory for it: none of it stays there
            _move(network, self.waiting)
            raise
        self._there = network

    def clear(self) -> None:
        """Sends the network that is there away, for something else that needs the memory."""
        if self._there is not None:
            _move(self._there, self.waiting)
            self._there = None

    def _coming(self, network: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.fetch(network)
            made = method(*args, **kwargs)
            for output in tree_leaves(made.to_tuple() if hasattr(made, "to_tuple") else made):
                if isinstance(output, Tensor) and output.requires_grad:
                    output.register_hook(lambda gradient: self.fetch(network))
            return made

        return run


def offload_encoder(encoder: nn.Module, device: torch.device, turns: Turns | None = None) -> None:
    """Lets a text encoder wait in the memory of the CPU, and come to a device for each of its calls only.

    Args:
        encoder: A text encoder, which is called without gradients.
        device: Where it works.
        turns: Networks that leave the device before it comes.
    """

    def fetch(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if turns is not None:
            turns.clear()
        _move(module, device)
        return tree_map_only(Tensor, lambda tensor: tensor.to(device), (args, kwargs))

    def put_back(module: nn.Module, args: Any, made: Any) -> None:
        _move(module, "cpu")

    encoder.to("cpu")
    encoder.register_forward_pre_hook(fetch, with_kwargs=True)
    encoder.register_forward_hook(put_back, always_call=True)


def _move(network: nn.Module, where: Any) -> None:
    # Weights that were moved in inference mode could not be used by a later call with gradients.
    with torch.inference_mode(False):
        network.to(where)
