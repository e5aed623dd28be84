"""PixArt-alpha, PixArt-Sigma and what is distilled from them, such as PixArt-DMD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.families.base import PipelineFamily
from sgool.models.family import Conditioning
from sgool.models.schedule import Step


class LearnedSigma(PipelineFamily):
    """A family whose network may predict a variance in further channels, which its pipeline drops."""

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        """Returns the network's output (B, C, h, w) without the variance."""
        output = super().predict(x, step, conditioning)
        return output.chunk(2, dim=1)[0] if self.config.out_channels // 2 == self.config.in_channels else output


class PixArt(LearnedSigma):
    """The family of ``PixArtAlphaPipeline`` and ``PixArtSigmaPipeline``: T5 with a mask of its tokens.

    The size that is asked for is the network's: there is no binning of resolutions.
    """

    tokenizers = {"tokenizer": "max_sequence_length"}  # noqa: RUF012

    def argument(self, name: str) -> Any:
        """Returns an argument of the pipeline's call; captions stay as they are, which needs no further package."""
        return self._call.get(name, False) if name == "clean_caption" else super().argument(name)

    @property
    def _is_alpha(self) -> bool:
        return any(kind.__name__ == "PixArtAlphaPipeline" for kind in type(self.pipeline).__mro__)

    def conditioning(
        self, prompts: list[str], negative: list[str] | None, guidance_scale: float, size: tuple[int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """Returns embeddings of the tokens, their mask and, for the 1024 pixel PixArt-alpha, the size."""
        embeds, mask, other, other_mask = self.pipeline.encode_prompt(
            prompts,
            negative is not None,
            negative_prompt="" if negative is None else negative,
            device=self.device,
            clean_caption=self.argument("clean_caption"),
            max_sequence_length=self.argument("max_sequence_length"),
        )
        added = self._sizes(size, embeds)
        positive = _arguments(embeds, mask, added)
        return positive, None if negative is None else _arguments(other, other_mask, added)

    def _sizes(self, size: tuple[int, int], embeds: Tensor) -> dict[str, Tensor]:
        if not (self._is_alpha and self.config.sample_size == 128):
            return {}
        both = embeds.new_tensor(size).repeat(len(embeds), 1)
        return {"resolution": both, "aspect_ratio": embeds.new_tensor([size[0] / size[1]]).repeat(len(embeds), 1)}

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        """Returns the network's output (B, C, h, w) without the variance."""
        assert isinstance(conditioning, dict)
        nothing = {"resolution": None, "aspect_ratio": None}
        full: Any = {"added_cond_kwargs": nothing, **conditioning}
        return super().predict(x, step, full)

    def result(self, results: Sequence[Tensor], num_calls: int) -> Tensor:
        """The last latents; for PixArt-alpha in a single step, those predicted without noise.

        Raises:
            SgoolError: The scheduler does not say what it predicts without noise.
        """
        if not (self._is_alpha and num_calls == 1):
            return results[0]
        if len(results) < 2:
            raise SgoolError(
                "`sampler.num_inference_steps`: PixArt-alpha in one step takes what its scheduler predicts without "
                f"noise, and {type(self.scheduler).__name__} does not say; use more steps, or "
                "'models.scheduler={class: DDPMScheduler, clip_sample: false}' for its DMD"
            )
        return results[1]


def _arguments(embeds: Tensor, mask: Tensor, added: dict[str, Tensor]) -> dict[str, Conditioning]:
    sizes: dict[str, Conditioning] = {"added_cond_kwargs": added} if added else {}
    return {"encoder_hidden_states": embeds, "encoder_attention_mask": mask.to(torch.int64), **sizes}
