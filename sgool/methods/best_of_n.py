"""Best of N: many seeds instead of an optimisation, the control that every optimiser has to beat."""

from __future__ import annotations

from torch import Tensor

from sgool.methods.candidates import draw_candidate
from sgool.methods.search import Search


class BestOfN(Search):
    """Samples N images of each prompt and keeps the one that the objective likes best.

    Candidate 0 starts from the pair's own first latents, the others from further draws of the pair; with ``streams``
    "all" they have noises of their own too.

    Examples:
        >>> import lightning as L
        >>> from sgool import BestOfN, Chain, Objective, PromptDataModule
        >>> from sgool.objectives import Color
        >>> chain = Chain.from_pretrained("emoji_world_turbo", num_inference_steps=1, guidance_scale=0)
        >>> module = BestOfN(chain, Objective({"red": Color([1.0, 0.0, 0.0])}), num_candidates=3)
        >>> trainer = L.Trainer(logger=False, enable_progress_bar=False)
        >>> _ = trainer.predict(module, datamodule=PromptDataModule("emoji_world/demo", limit=1))
        >>> len(module.results[0].history)  # one row a candidate
        3
    """

    method = "best_of_n"

    def propose(self, index: int) -> Tensor:
        """Returns the latents (S, B, C, h, w) of a candidate: a draw that depends on no score."""
        return draw_candidate(self.first, self.pairs, index, self.num_noises)
