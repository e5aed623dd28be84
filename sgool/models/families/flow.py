"""What families of flow matching share: timesteps that are shifted by the number of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgool.models.families.base import PipelineFamily
from sgool.models.native import StepOptions
from sgool.models.schedule import Step


class FlowFamily(PipelineFamily):
    """A family whose scheduler may ask for a shift (``use_dynamic_shifting``).

    Attributes:
        max_shift: The pipeline's largest shift where its scheduler names none.
    """

    max_shift = 1.16

    def num_image_tokens(self, height: int | None, width: int | None) -> int:
        """Number of tokens of an image, which the shift depends on."""
        *_, rows, columns = self.latent_shape(height, width)
        patch = int(self.config.patch_size)
        return (rows // patch) * (columns // patch)

    def shift(self, scheduler: Any, height: int | None, width: int | None) -> float:
        """Returns diffusers' ``mu``: linear in the number of image tokens (Esser et al. 2024, section 5.3.2)."""
        named = scheduler.config.get
        fewest, most = named("base_image_seq_len", 256), named("max_image_seq_len", 4096)
        least, largest = named("base_shift", 0.5), named("max_shift", self.max_shift)
        slope = (largest - least) / (most - fewest)
        return float(self.num_image_tokens(height, width) * slope + (least - slope * fewest))

    def set_timesteps(
        self, scheduler: Any, num_inference_steps: int, options: StepOptions, height: int | None, width: int | None
    ) -> None:
        """Sets a scheduler's timesteps, with a shift where it asks for one."""
        given = self.timestep_arguments(scheduler, num_inference_steps, options)
        if scheduler.config.get("use_dynamic_shifting"):
            given["mu"] = self.shift(scheduler, height, width)
        scheduler.set_timesteps(**given)

    def time(self, step: Step, x: Tensor) -> Tensor:
        """Returns the timestep (B,) as the network is told it, in float32."""
        return torch.full((len(x),), step.timestep, device=x.device, dtype=torch.float32)
