"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.families.flow import FlowFamily
from sgool.models.family import Conditioning


class StableDiffusion3(FlowFamily):
    """The family of ``StableDiffusion3Pipeline``: two CLIP encoders and T5, which may be left out."""

    tokenizers = {"tokenizer": None, "tokenizer_2": None, "tokenizer_3": "max_sequence_length"}  # noqa: RUF012

    def size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Returns an image's size; the network knows a limited number of positions.

        Raises:
            SgoolError: The size does not fit.
        """
        sides = super().size(height, width)
        most = int(self.config.pos_embed_max_size) * self.multiple
        for name, pixels in zip(("height", "width"), sides, strict=True):
            if pixels > most:
                raise SgoolError(f"`models.{name}`: expected at most {most} pixels for this model, got {pixels}")
        return sides

    def conditioning(
        self, prompts: list[str], negative: list[str] | None, guidance_scale: float, size: tuple[int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """Returns embeddings of the tokens and pooled ones; without T5, zeros in the place of its tokens."""
        embeds, other, pooled, other_pooled = self.pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=negative is not None,
            negative_prompt=negative,
            clip_skip=self.argument("clip_skip"),
            max_sequence_length=self.argument("max_sequence_length"),
        )
        return _arguments(embeds, pooled), None if negative is None else _arguments(other, other_pooled)


def _arguments(embeds: Any, pooled: Any) -> dict[str, Tensor]:
    return {"encoder_hidden_states": embeds, "pooled_projections": pooled}
