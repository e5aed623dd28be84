"""A scalar of a chain's last latents, its gradient by any engine, and a count of what the network did meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion import Chain, Engine, build_sampler
from sgool.models.stable_diffusion import StableDiffusion
from tests.reference import scheduler64

PROMPTS = ["a red cat", "trees", "a panda"]
NEGATIVE = ["", "a house", "blue"]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers, drawn in float64 whatever ``dtype`` is."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def off(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest entry expected."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


class Problem:
    """A weighted sum of tanh of the last latents, as a function of the first.

    Args:
        models: The networks.
        sampler: Its name.
        steps: Of denoising.
        guidance: Guidance scale.
        prediction: What the network predicts.
        prompts: Which of `PROMPTS` make up the batch.
        offset: The scheduler's ``steps_offset``.
        split: One guidance pass after the other.
        size: Of the latents.
        dtype: Of the latents.
        **options: Of the sampler.
    """

    def __init__(
        self,
        models: StableDiffusion,
        sampler: str = "ddim",
        steps: int = 3,
        guidance: float = 3.0,
        prediction: str = "epsilon",
        *,
        prompts: tuple[int, ...] = (0,),
        offset: int = 1,
        split: bool = False,
        size: tuple[int, int] = (8, 8),
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ) -> None:
        self.models = replace(models, scheduler=scheduler64(prediction_type=prediction, steps_offset=offset))
        self.prompts, self.sampler = prompts, build_sampler(sampler, **options)
        self._options: dict[str, Any] = {
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "sampler": self.sampler,
            "split_guidance": split,
        }
        plain = Chain(self.models, **self._options)
        self.schedule, self.moves = plain.schedule, plain.moves
        #: N, counted from the moves.
        self.calls = sum(move.calls_network for move in self.moves)
        shape = (self.sampler.num_streams, len(PROMPTS), 4, *size)
        self.start = randn(*shape, dtype=dtype)[:, list(prompts)]
        self.weight = randn(*shape, seed=1, dtype=dtype)[:, list(prompts)]

    def chain(self, engine: Engine | str = "direct", models: StableDiffusion | None = None) -> Chain:
        """A new chain, whose count of calls is 0; ``models``: other networks than the problem's own."""
        text, negative = ([texts[i] for i in self.prompts] for texts in (PROMPTS, NEGATIVE))
        return Chain(models or self.models, engine=engine, **self._options).with_prompts(text, negative)

    def leaf(self) -> Tensor:
        """First latents that ask for a gradient."""
        return self.start.clone().requires_grad_(True)

    def value(self, latents: Tensor, chain: Chain | Engine | str = "direct") -> Tensor:
        """The scalar, by a chain of the problem or by a new one with an engine."""
        chain = chain if isinstance(chain, Chain) else self.chain(chain)
        return (self.weight * torch.tanh(chain.denoise(latents))).sum()

    def gradient(self, chain: Chain | Engine | str = "direct") -> Tensor:
        """Of the scalar with respect to the first latents."""
        leaf = self.leaf()
        (gradient,) = torch.autograd.grad(self.value(leaf, chain), leaf)
        return gradient


@dataclass
class Counted:
    """Network passes, split guidance counting two a call.

    Attributes:
        forward: Rows of the batch of each pass.
        backward: How often a gradient came back through a pass.
    """

    forward: list[int] = field(default_factory=list)
    backward: int = 0


@contextmanager
def counted(unet: Any) -> Iterator[Counted]:
    """Counts from outside of sgool, with hooks on the network."""
    count = Counted()

    def gradient_came(_: Tensor) -> None:
        count.backward += 1

    def before(_: Any, arguments: tuple[Any, ...]) -> None:
        count.forward.append(len(arguments[0]))

    def after(_: Any, __: Any, output: tuple[Tensor]) -> None:
        if output[0].requires_grad:
            output[0].register_hook(gradient_came)

    hooks = [unet.register_forward_pre_hook(before), unet.register_forward_hook(after)]
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()
