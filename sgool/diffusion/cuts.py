"""Finds gradients that are cut inside a network, before they steer an optimisation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sgool.diffusion.network import GuidedModel
from sgool.errors import SgoolError
from sgool.models.schedule import Step

#: A module's name and the number of its call within one call of the network.
_Key = tuple[str, int]


@dataclass
class CutGuard:
    """Refuses a network that passes on what the latents say, but not the gradient; it looks once.

    The network is called with gradients, and once more, without, with other latents. A module whose output changes with
    the latents, and had no gradient to them, is cut off: its part of the gradient is missing, in silence.
    """

    done: bool = False

    def check(self, model: GuidedModel, latents: Tensor, step: Step) -> None:
        """Looks at a guided network, at the first call only; the two calls are not counted.

        Args:
            model: The network with its prompts.
            latents: (B, C, h, w).
            step: A denoising step.

        Raises:
            SgoolError: Gradients are cut; it names the modules.
        """
        if self.done:
            return
        first = _Watch()
        leaf = latents.detach().clone().requires_grad_(True)
        with torch.enable_grad(), first.over(model.networks):
            model.probe(leaf, step)
        second = _Watch(first.without_gradient.keys())
        # Not a multiple, nor a permutation: layers that do not care for these would seem to read nothing.
        other = 0.7 * latents.detach() + 0.3 * latents.detach().roll(1, -1)
        with torch.no_grad(), second.over(model.networks):
            model.probe(other, step)
        sums = second.without_gradient
        found = [key for key, own in first.without_gradient.items() if not _equal(own, sums.get(key, own))]
        if found:
            raise SgoolError(_sentence(found, first.inner))
        self.done = True


@dataclass
class _Watch:
    """What a call of the networks has shown.

    Attributes:
        only: The calls of modules that are looked at; None: all.
        without_gradient: Calls of modules whose output has no gradient to anything -> sums of the output's numbers.
        inner: Of these, calls that were given something with a gradient: there it ends.
    """

    only: Collection[_Key] | None = None
    without_gradient: dict[_Key, list[Tensor]] = field(default_factory=dict)
    inner: set[_Key] = field(default_factory=set)

    @contextmanager
    def over(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """Hooks onto all modules of the networks, which run uncompiled as long as the block does."""
        calls: dict[str, int] = {}
        hooks, compiled = [], []
        for name, module in ((name, module) for network in networks for name, module in network.named_modules()):
            compiled.append((module, module._compiled_call_impl))
            module._compiled_call_impl = None

            def look(module: nn.Module, args: Any, kwargs: Any, made: Any, name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1
                self._look((name, calls[name]), [args, kwargs], made)

            hooks.append(module.register_forward_hook(look, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module, implementation in compiled:
                module._compiled_call_impl = implementation

    def _look(self, key: _Key, given: Any, made: Any) -> None:
        outputs = _floats(made)
        if self.only is not None and key not in self.only:
            return
        if not outputs or any(tensor.requires_grad for tensor in outputs):
            return
        if any(tensor.requires_grad for tensor in _floats(given)):
            self.inner.add(key)
        with torch.no_grad():
            # MPS has no float64.
            wide = [(tensor.cpu() if tensor.device.type == "mps" else tensor).double() for tensor in outputs]
            self.without_gradient[key] = [sums for x in wide for sums in (x.sum(), x.abs().sum())]


def _floats(values: Any) -> list[Tensor]:
    leaves = tree_leaves(values.to_tuple() if hasattr(values, "to_tuple") else values)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _equal(sums: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether sums are equal; kernels on a GPU may add up in another order at the second call."""
    pairs = zip(sums, others, strict=True)
    return all(torch.allclose(one, other, rtol=1e-9, atol=0, equal_nan=True) for one, other in pairs)


def _sentence(found: Sequence[_Key], inner: set[_Key]) -> str:
    # Where the gradient ends is what has to be mended; modules behind it follow from that.
    names = list(dict.fromkeys(name or "the whole network" for name, _ in [k for k in found if k in inner] or found))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"`models.path`: the gradient is cut inside the network, in {', '.join(names[:3])}{more}: the output there "
        "changes with the latents and has no gradient to them, so updates would follow a wrong gradient. It may come "
        "from int8 dynamic activations (take weight-only quantisation), an attention kernel without backward (take "
        "the network's default attention), or torch.no_grad or detach in a module of your own"
    )
