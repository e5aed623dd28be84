"""The baseline: sampling with the same sampler and seed, no objective."""

from __future__ import annotations

from torch import Tensor

from sgool.methods.base import PairModule
from sgool.prompts.batches import PairBatch
from sgool.results.checkpoint import eight_bit
from sgool.types import PairResult


class Vanilla(PairModule):
    """Plain sampling: ``Trainer.predict(Vanilla(chain), datamodule=data)``. Initial and final image are the same."""

    method = "vanilla"

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
