"""Classifier-free guidance: the network as a function from latents and a step to ``noise_pred``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgool.diffusion.schedule import Step
from sgool.errors import SgoolError


class NoisePredictor:
    """Predicts the noise in latents (B, C, h, w) under classifier-free guidance (Ho and Salimans 2022, eq. 6).

    Conditional and unconditional passes go through the network as one batch, negative first as in diffusers;
    with ``guidance_scale`` 1 the unconditional pass is left out. Differentiable in the latents.

    Args:
        unet: A frozen ``UNet2DConditionModel``.
        prompt_embeds: (B, L, D).
        negative_prompt_embeds: (B, L, D); needed unless ``guidance_scale`` is 1.
        guidance_scale: Weight of the conditional direction.
        prediction_type: What the network predicts: "epsilon", "v_prediction" or "sample".

    Attributes:
        calls: Number of network calls made through this object, recomputation in backward included.

    Raises:
        SgoolError: Unknown prediction type, or negative embeddings missing.
    """

    def __init__(
        self,
        unet: Any,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None,
        guidance_scale: float,
        prediction_type: str = "epsilon",
    ) -> None:
        if prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise SgoolError(
                f"`prediction_type`: expected epsilon, v_prediction or sample, got {prediction_type!r}; "
                "it comes from the model's scheduler config"
            )
        if guidance_scale != 1 and negative_prompt_embeds is None:
            raise SgoolError(f"`guidance_scale` {guidance_scale} needs `negative_prompt_embeds`, got None")
        self.unet, self.guidance_scale, self.prediction_type = unet, float(guidance_scale), prediction_type
        self._guided = guidance_scale != 1
        self._negative, self._positive = negative_prompt_embeds, prompt_embeds
        self.calls = 0

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        """``noise_pred`` of the same shape and dtype as ``latents``."""
        self.calls += 1
        repeats = len(latents) // len(self._positive)
        if self._guided:
            assert self._negative is not None
            model_input = torch.cat([latents, latents])
            embeds = torch.cat([self._negative.repeat(repeats, 1, 1), self._positive.repeat(repeats, 1, 1)])
        else:
            model_input, embeds = latents, self._positive.repeat(repeats, 1, 1)
        output = self.unet(model_input, step.timestep, encoder_hidden_states=embeds, return_dict=False)[0]
        if self._guided:
            unconditional, text = output.chunk(2)
            output = unconditional + self.guidance_scale * (text - unconditional)
        return self._to_noise(output.to(latents.dtype), latents, step)

    def _to_noise(self, output: Tensor, latents: Tensor, step: Step) -> Tensor:
        if self.prediction_type == "epsilon":
            return output
        a, b = step.alpha_prod_t**0.5, (1 - step.alpha_prod_t) ** 0.5
        if self.prediction_type == "v_prediction":
            return a * output + b * latents
        return (latents - a * output) / b
