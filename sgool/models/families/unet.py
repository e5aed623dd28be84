"""What the families of UNets share: some are told the guidance scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sgool.models.families.base import PipelineFamily
from sgool.models.family import Conditioning
from sgool.models.schedule import Step


class UNetFamily(PipelineFamily):
    """A family whose denoising network is a UNet, which may be told the guidance scale, as LCM's are."""

    denoiser = "unet"

    @property
    def _is_told_guidance(self) -> bool:
        """Whether the network is told the guidance scale."""
        return self.config.time_cond_proj_dim is not None

    def cfg_scale(self, guidance_scale: float) -> float:
        """Returns the scale itself, or 1 for a network that is told the scale."""
        return 1.0 if self._is_told_guidance else guidance_scale

    def _guidance(self, guidance_scale: float, count: int) -> dict[str, Tensor]:
        """Returns the network's argument for the scale, where it is told that."""
        if not self._is_told_guidance:
            return {}
        scales = torch.tensor(guidance_scale - 1).repeat(count)
        width = self.config.time_cond_proj_dim
        return {
            "timestep_cond": self.pipeline.get_guidance_scale_embedding(scales, embedding_dim=width).to(self.device)
        }

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        """Returns the UNet's output (B, C, h, w)."""
        assert isinstance(conditioning, Mapping)
        output: Tensor = self.network(x, self.time(step, x), return_dict=False, **conditioning)[0]
        return output
