"""Latent consistency models in Stable Diffusion's layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sgool.models.families.unet import UNetFamily
from sgool.models.family import Conditioning
from sgool.models.native import StepOptions
from sgool.models.schedule import Schedule, Spacing, build_schedule, is_distilled


class LatentConsistency(UNetFamily):
    """The family of ``LatentConsistencyModelPipeline``: the network is told the guidance scale.

    There is no negative prompt. ``original_inference_steps`` of ``call`` is the number of steps from which the
    scheduler takes its own.
    """

    def conditioning(
        self, prompts: list[str], negative: list[str] | None, guidance_scale: float, size: tuple[int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """Returns embeddings of the tokens, and the guidance."""
        embeds, _ = self.pipeline.encode_prompt(prompts, self.device, 1, False, clip_skip=self.argument("clip_skip"))
        return {"encoder_hidden_states": embeds, **self._guidance(guidance_scale, len(prompts))}, None

    def timestep_arguments(self, scheduler: Any, num_inference_steps: int, options: StepOptions) -> dict[str, Any]:
        """Returns the arguments of ``scheduler.set_timesteps``; see `sgool.models.scheduling.SchedulerRules`."""
        given = super().timestep_arguments(scheduler, num_inference_steps, options)
        steps = self.argument("original_inference_steps")
        return given if steps is None else {**given, "original_inference_steps": steps}

    def schedule(
        self, num_inference_steps: int, spacing: Spacing, height: int | None = None, width: int | None = None
    ) -> Schedule:
        """Returns the steps of the pipeline's own scheduler, taken from ``original_inference_steps`` of ``call``."""
        steps = self.argument("original_inference_steps")
        if steps is None or not is_distilled(self.scheduler):
            return super().schedule(num_inference_steps, spacing, height, width)
        own = type(self.scheduler).from_config(self.scheduler.config, original_inference_steps=steps)
        return build_schedule(own, num_inference_steps, spacing)

    def scaled(self, scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
        """The network sees latents as they are."""
        return latents

    def result(self, results: Sequence[Tensor], num_calls: int) -> Tensor:
        """The last estimate of the clean latents."""
        return results[1]
