"""The baseline: sampling with the same sampler and seed, no objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sgool.diffusion import Chain
from sgool.methods.base import PairModule
from sgool.methods.budget import Budget, check_fixed_cost
from sgool.metrics.panel import JudgePanel
from sgool.prompts.batches import PairBatch
from sgool.results.checkpoint import eight_bit
from sgool.types import PairResult, PromptSeed


class Vanilla(PairModule):
    """Plain sampling: ``Trainer.predict(Vanilla(chain), datamodule=data)``. Initial and final image are the same.

    Args:
        chain: The denoising chain.
        judges: As for every method.
        pairs: As for every method.
        budget: The most that a pair may cost; the cost is fixed.

    Raises:
        SgoolError: A budget below the calls of one image.

    Examples:
        >>> import lightning as L
        >>> from sgool import Chain, PromptDataModule, Vanilla
        >>> module = Vanilla(Chain.from_pretrained("emoji_world_turbo", num_inference_steps=1, guidance_scale=0))
        >>> data = PromptDataModule("emoji_world/demo", limit=1)
        >>> trainer = L.Trainer(logger=False, enable_progress_bar=False)
        >>> _ = trainer.predict(module, datamodule=data)
        >>> tuple(module.results[0].final_image.shape)
        (3, 64, 64)
    """

    method = "vanilla"

    def __init__(
        self,
        chain: Chain,
        *,
        judges: JudgePanel | Mapping[str, Any] | None = None,
        pairs: Sequence[PromptSeed] | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(chain, judges=judges, pairs=pairs, budget=budget)
        check_fixed_cost(chain.sampling_calls, self.budget)

    def start(self, latents: Tensor) -> None:
        """Keeps the first latents (S, B, C, h, w) of a batch."""
        self.first = latents

    def round(self, batch: PairBatch) -> None:
        """Makes one image a pair."""
        images, latents = eight_bit(self.first_images(self.first)).cpu(), self.first.cpu()
        calls = self.batch_chain.calls
        self.deliver(
            [
                PairResult(pair, images[i], images[i], latents[:, i], latents[:, i], network_evaluations=calls)
                for i, pair in enumerate(self.pairs)
            ]
        )
