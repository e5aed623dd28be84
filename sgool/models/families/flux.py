"""FLUX.1 dev and schnell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sgool.config.pipeline import no_guidance
from sgool.errors import SgoolError
from sgool.models.families.flow import FlowFamily
from sgool.models.family import Conditioning, Defaults
from sgool.models.native import StepOptions
from sgool.models.schedule import Step


class Flux(FlowFamily):
    """The family of ``FluxPipeline``: the network works on tokens of 2 x 2 latents, with a position each.

    Latents stay (B, C, h, w) here; bringing them to tokens and back is a permutation within `predict`. FLUX.1 dev is
    told the guidance scale, schnell has no guidance; classifier-free guidance is ``true_cfg_scale`` of ``call``.
    """

    tokenizers = {"tokenizer": None, "tokenizer_2": "max_sequence_length"}  # noqa: RUF012
    max_shift = 1.15

    @property
    def num_channels(self) -> int:
        """Number of channels C of the latents, a quarter of those of a token."""
        return int(self.config.in_channels) // 4

    @property
    def multiple(self) -> int:
        """Number of pixels of a token's side."""
        return 2 * self.vae_scale_factor

    @property
    def defaults(self) -> Defaults:
        """The defaults of the pipeline's call; without guidance for a network that is not told its scale."""
        own = super().defaults
        return own if self.config.guidance_embeds else Defaults(own.num_inference_steps, 0.0)

    def cfg_scale(self, guidance_scale: float) -> float:
        """Returns ``true_cfg_scale``; the guidance scale itself is told the network.

        Raises:
            SgoolError: The network is told no scale (schnell), and this one asks for guidance.
        """
        if guidance_scale > 1 and not self.config.guidance_embeds:
            raise SgoolError(no_guidance(self.name, guidance_scale))
        return float(self.argument("true_cfg_scale"))

    def num_image_tokens(self, height: int | None, width: int | None) -> int:
        """Number of tokens of an image."""
        *_, rows, columns = self.latent_shape(height, width)
        return (rows // 2) * (columns // 2)

    def timestep_arguments(self, scheduler: Any, num_inference_steps: int, options: StepOptions) -> dict[str, Any]:
        """Returns the arguments of ``scheduler.set_timesteps``: evenly spaced sigmas from 1 to 1 / steps."""
        given = super().timestep_arguments(scheduler, num_inference_steps, options)
        if "num_inference_steps" in given and not scheduler.config.get("use_flow_sigmas"):
            return {"sigmas": [1 - i / num_inference_steps for i in range(num_inference_steps)]}
        return given

    def conditioning(
        self, prompts: list[str], negative: list[str] | None, guidance_scale: float, size: tuple[int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """Returns embeddings of T5's tokens, pooled ones of CLIP and, for dev, the guidance scale."""
        length = self.argument("max_sequence_length")

        def encoded(texts: list[str]) -> Conditioning:
            embeds, pooled, _ = self.pipeline.encode_prompt(texts, None, device=self.device, max_sequence_length=length)
            told = {}
            if self.config.guidance_embeds:
                told["guidance"] = torch.full((len(texts),), float(guidance_scale), device=self.device)
            return {"encoder_hidden_states": embeds, "pooled_projections": pooled, **told}

        return encoded(prompts), None if negative is None else encoded(negative)

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        """Returns the velocity (B, C, h, w) of latents; the network is told the time in [0, 1]."""
        assert isinstance(conditioning, Mapping)
        embeds = conditioning["encoder_hidden_states"]
        assert isinstance(embeds, Tensor)
        rows, columns = x.shape[2] // 2, x.shape[3] // 2
        tokens = self.network(
            hidden_states=_packed(x),
            timestep=self.time(step, x).to(x.dtype) / 1000,
            txt_ids=embeds.new_zeros(embeds.shape[1], 3),
            img_ids=_positions(rows, columns, embeds),
            return_dict=False,
            **conditioning,
        )[0]
        return _unpacked(tokens, rows, columns)


def _packed(latents: Tensor) -> Tensor:
    """Tokens (B, h w / 4, 4 C) of latents (B, C, h, w)."""
    batch, channels, height, width = latents.shape
    blocks = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // 2) * (width // 2), channels * 4)


def _unpacked(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Latents (B, C, h, w) of tokens."""
    batch, _, size = tokens.shape
    blocks = tokens.reshape(batch, rows, columns, size // 4, 2, 2)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, size // 4, 2 * rows, 2 * columns)


def _positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """Positions (tokens, 3) of an image's tokens: nothing, row, column."""
    at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2)
    return torch.nn.functional.pad(at, (1, 0)).to(device=like.device, dtype=like.dtype)
