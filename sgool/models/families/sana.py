"""Sana and Sana-Sprint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.families.flow import FlowFamily
from sgool.models.families.pixart import LearnedSigma
from sgool.models.family import Conditioning
from sgool.models.native import StepOptions
from sgool.models.schedule import Schedule, Spacing, Step


class Sana(LearnedSigma, FlowFamily):
    """The family of ``SanaPipeline``: Gemma with a mask of its tokens, and a scale of the time.

    The pipeline's ``complex_human_instruction`` stands before each prompt; an empty list in ``call`` leaves it out. The
    size that is asked for is the network's: there is no binning of resolutions.
    """

    tokenizers = {"tokenizer": "max_sequence_length"}  # noqa: RUF012

    def _encoding(self) -> dict[str, Any]:
        names = ("clean_caption", "max_sequence_length", "complex_human_instruction")
        return {"device": self.device, **{name: self.argument(name) for name in names}}

    def conditioning(
        self, prompts: list[str], negative: list[str] | None, guidance_scale: float, size: tuple[int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """Returns embeddings of the tokens and their mask."""
        embeds, mask, other, other_mask = self.pipeline.encode_prompt(
            prompts, negative is not None, negative_prompt="" if negative is None else negative, **self._encoding()
        )
        return _arguments(embeds, mask), None if negative is None else _arguments(other, other_mask)

    def time(self, step: Step, x: Tensor) -> Tensor:
        """Returns the timestep (B,) times the network's ``timestep_scale``."""
        return super().time(step, x) * self.config.timestep_scale


class SanaSprint(Sana):
    """The family of ``SanaSprintPipeline``: a consistency model in angles (TrigFlow), which is told the guidance.

    Its network is one of a flow. The scheduler's latents are scaled for it, and its output is mixed with what it saw;
    both are linear, so they become coefficients of the sampler ``native``.
    """

    def cfg_scale(self, guidance_scale: float) -> float:
        """Returns 1: the network is told the scale."""
        return 1.0

    def schedule(
        self, num_inference_steps: int, spacing: Spacing, height: int | None = None, width: int | None = None
    ) -> Schedule:
        """Raises an error: no other sampler than ``native`` goes by angles."""
        raise SgoolError(
            "`sampler`: Sana-Sprint is a consistency model, whose steps only its own scheduler has; use sampler=native"
        )

    def conditioning(
        self, prompts: list[str], negative: list[str] | None, guidance_scale: float, size: tuple[int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """Returns embeddings of the tokens, their mask, and the guidance scale."""
        embeds, mask = self.pipeline.encode_prompt(prompts, **self._encoding())
        guidance = torch.full((len(prompts),), float(guidance_scale), device=self.device).to(embeds.dtype)
        return {**_arguments(embeds, mask), "guidance": guidance * self.config.guidance_embeds_scale}, None

    def set_timesteps(
        self, scheduler: Any, num_inference_steps: int, options: StepOptions, height: int | None, width: int | None
    ) -> None:
        """Sets the scheduler's angles; the one in the middle of two steps is the pipeline's own."""
        middle = self.argument("intermediate_timesteps") if num_inference_steps == 2 else None
        own: dict[str, Any] = {"intermediate_timesteps": middle, "max_timesteps": self.argument("max_timesteps")}
        given = self.timestep_arguments(scheduler, num_inference_steps, options)
        if "timesteps" in given:
            # The last angle, 0, is no network call.
            own = {"intermediate_timesteps": None, "max_timesteps": None}
            given = {"num_inference_steps": num_inference_steps, "timesteps": [*given["timesteps"], 0.0]}
        scheduler.set_timesteps(**given, **own)

    def call_timesteps(self, scheduler: Any) -> Sequence[Tensor]:
        """Angles of the network calls, without the last one, which is the end."""
        return list(scheduler.timesteps[:-1])

    @property
    def _sigma_data(self) -> float:
        return float(self.scheduler.config.sigma_data)

    def first_scale(self, scheduler: Any) -> float:
        """Standard deviation of the first latents, that of the data."""
        return self._sigma_data

    def scaled(self, scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
        """What the network sees: latents of a flow with the same ratio of noise to signal."""
        return latents * (_norm(timestep) / self._sigma_data)

    def model_output(self, seen: Tensor, output: Tensor, timestep: Tensor) -> Tensor:
        """The prediction in angles, from the network's velocity."""
        level = self.network_time(timestep)
        mixed = (1 - 2 * level) * seen + (1 - 2 * level + 2 * level**2) * output
        return mixed * (self._sigma_data / _norm(timestep))

    def result(self, results: Sequence[Tensor], num_calls: int) -> Tensor:
        """The last latents: those predicted without noise, of unit variance."""
        return results[1] / self._sigma_data

    def network_time(self, timestep: Tensor) -> float:
        """The noise level in [0, 1] that belongs to an angle."""
        angle = float(timestep)
        return math.sin(angle) / (math.cos(angle) + math.sin(angle))

    def time(self, step: Step, x: Tensor) -> Tensor:
        """Returns the noise level (B,)."""
        return torch.full((len(x),), step.timestep, device=x.device, dtype=torch.float32)


def _norm(timestep: Tensor) -> float:
    angle = float(timestep)
    level = math.sin(angle) / (math.cos(angle) + math.sin(angle))
    return math.hypot(level, 1 - level)


def _arguments(embeds: Tensor, mask: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": embeds, "encoder_attention_mask": mask}
