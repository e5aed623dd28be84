"""Stable Diffusion XL and what is distilled from it: SDXL-Turbo, LCM, Hyper-SDXL, DMD2, Lightning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgool.models.families.unet import UNetFamily
from sgool.models.family import Conditioning


class StableDiffusionXL(UNetFamily):
    """The family of ``StableDiffusionXLPipeline``: two text encoders, pooled embeddings, and sizes as conditions.

    A negative prompt that is empty is what diffusers' None is: zeros where the pipeline's
    ``force_zeros_for_empty_prompt`` is set, else the encoded empty text. That setting may be given in ``call``.
    """

    tokenizers = {"tokenizer": None, "tokenizer_2": None}  # noqa: RUF012

    def argument(self, name: str) -> Any:
        """Returns an argument of the pipeline's call; ``force_zeros_for_empty_prompt`` is one of its settings."""
        if name == "force_zeros_for_empty_prompt" and name not in self._call:
            return self.pipeline.config.get(name, True)
        return super().argument(name)

    def conditioning(
        self, prompts: list[str], negative: list[str] | None, guidance_scale: float, size: tuple[int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """Returns embeddings of the tokens, pooled ones, time ids and, where the network is told it, the guidance."""
        embeds, other, pooled, other_pooled = self.pipeline.encode_prompt(
            prompts,
            device=self.device,
            do_classifier_free_guidance=negative is not None,
            negative_prompt=negative,
            clip_skip=self.argument("clip_skip"),
        )
        shared = self._sizes(size, len(prompts), embeds, pooled) | self._guidance(guidance_scale, len(prompts))
        positive = _arguments(embeds, pooled, shared)
        if negative is None:
            return positive, None
        if self.argument("force_zeros_for_empty_prompt"):
            empty = torch.tensor([text == "" for text in negative], device=embeds.device)
            other = torch.where(empty[:, None, None], 0.0, other)
            other_pooled = torch.where(empty[:, None], 0.0, other_pooled)
        return positive, _arguments(other, other_pooled, shared)

    def _sizes(self, size: tuple[int, int], count: int, embeds: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        encoder = self.pipeline.text_encoder_2
        ids = self.pipeline._get_add_time_ids(
            tuple(self.argument("original_size") or size),
            tuple(self.argument("crops_coords_top_left")),
            tuple(self.argument("target_size") or size),
            dtype=embeds.dtype,
            text_encoder_projection_dim=int(pooled.shape[-1] if encoder is None else encoder.config.projection_dim),
        )
        return {"time_ids": ids.to(self.device).repeat(count, 1)}

    def unscaled(self, latents: Tensor) -> Tensor:
        """Brings latents to the autoencoder's own scale, by its mean and deviation of each channel if it has them."""
        if (moments := self._moments(latents)) is None:
            return super().unscaled(latents)
        mean, deviation = moments
        return latents * deviation / self.vae.config.scaling_factor + mean

    def scaled_latents(self, latents: Tensor) -> Tensor:
        """Brings latents of the autoencoder's own scale to that of the chain."""
        if (moments := self._moments(latents)) is None:
            return super().scaled_latents(latents)
        mean, deviation = moments
        return (latents - mean) * self.vae.config.scaling_factor / deviation

    def _moments(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        given = [getattr(self.vae.config, name, None) for name in ("latents_mean", "latents_std")]
        if any(values is None for values in given):
            return None
        mean, deviation = (torch.tensor(values).view(1, -1, 1, 1).to(latents) for values in given)
        return mean, deviation


def _arguments(embeds: Tensor, pooled: Tensor, shared: dict[str, Tensor]) -> dict[str, Conditioning]:
    told = {name: value for name, value in shared.items() if name == "timestep_cond"}
    added = {"text_embeds": pooled, "time_ids": shared["time_ids"]}
    return {"encoder_hidden_states": embeds, "added_cond_kwargs": added, **told}
