"""The family of Stable Diffusion 1.x and 2.x: a UNet, a CLIP text encoder and an autoencoder."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.autoencoder import decode_latents, encode_images
from sgool.models.family import Conditioning, Defaults
from sgool.models.offload import working_device
from sgool.models.schedule import Schedule, Spacing, Step, build_schedule
from sgool.models.scheduling import SchedulerRules
from sgool.models.tokenizers import cut_texts, refuse_empty


@dataclass(frozen=True)
class StableDiffusion(SchedulerRules):
    """The frozen components of a Stable Diffusion 1.x or 2.x pipeline, as diffusers loads them: a `Family`."""

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    name: str
    _timesteps: dict[tuple[float, torch.device], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, pipeline: Any, name: str, call: Mapping[str, Any] | None = None) -> StableDiffusion:
        """Makes a family of a pipeline's own networks, which are frozen in place, in evaluation mode.

        Args:
            pipeline: A ``StableDiffusionPipeline``.
            name: Path or id that it was loaded from.
            call: Not used: this family takes no arguments of the pipeline's call.
        """
        refuse_empty(lambda text: list(pipeline.tokenizer(text).input_ids), f"`models.path`: {name!r}")
        for network in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
            network.requires_grad_(False).eval()
        return cls(pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.tokenizer, pipeline.scheduler, name)

    @property
    def vae_scale_factor(self) -> int:
        """Factor by which an image's sides are larger than the latents' sides."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the denoising network's weights."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def vae_dtype(self) -> torch.dtype:
        """Data type of the autoencoder's weights."""
        dtype: torch.dtype = self.vae.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Device of the denoising network's weights."""
        return working_device(self.unet)

    @property
    def denoisers(self) -> Mapping[str, nn.Module]:
        """Network that `predict` calls, by diffusers' name for it."""
        return {"unet": self.unet}

    @property
    def num_channels(self) -> int:
        """Number of channels C of the latents."""
        return int(self.unet.config.in_channels)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that the text encoder reads.

        A tokenizer may be saved without its limit, but the text encoder always has one.
        """
        return int(min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings))

    def to(self, device: torch.device | str) -> StableDiffusion:
        """Moves the networks to a device, in place, and returns the family itself."""
        for network in (self.vae, self.unet, self.text_encoder):
            network.to(device)
        return self

    @property
    def defaults(self) -> Defaults:
        """The defaults of ``StableDiffusionPipeline.__call__``."""
        from diffusers import StableDiffusionPipeline

        parameters = inspect.signature(StableDiffusionPipeline.__call__).parameters
        return Defaults(parameters["num_inference_steps"].default, parameters["guidance_scale"].default)

    def cfg_scale(self, guidance_scale: float) -> float:
        """Returns the weight of classifier-free guidance: the scale itself."""
        return guidance_scale

    def schedule(
        self,
        num_inference_steps: int,
        spacing: Spacing = "ddim",
        height: int | None = None,
        width: int | None = None,
    ) -> Schedule:
        """Returns the steps of the pipeline's own scheduler; see `sgool.models.schedule.build_schedule`."""
        return build_schedule(self.scheduler, num_inference_steps, spacing)

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """Returns the shape (C, h, w) of an image's latents; by default for the size the model was trained with.

        Raises:
            SgoolError: A side is not a positive multiple of what the network can halve.
        """
        sample = self.unet.config.sample_size
        default = (sample, sample) if isinstance(sample, int) else tuple(sample)
        factor = self.vae_scale_factor
        # Each block of the network but the last halves the latents' sides.
        multiple = factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        sides = []
        for name, side, latent in (("height", height, default[0]), ("width", width, default[1])):
            pixels = latent * factor if side is None else side
            if pixels < multiple or pixels % multiple:
                near = max(multiple, round(pixels / multiple) * multiple)
                raise SgoolError(
                    f"`models.{name}`: expected a multiple of {multiple} pixels (VAE factor {factor}), got {pixels}; "
                    f"{near} would do"
                )
            sides.append(pixels // factor)
        return (self.num_channels, sides[0], sides[1])

    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None,
        guidance_scale: float,
        height: int | None = None,
        width: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns ``prompt_embeds`` (B, L, D) and those of the negative prompts; see `encode_prompts`."""
        positive = self.encode_prompts(prompts)
        return positive, None if negative_prompts is None else self.encode_prompts(negative_prompts)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Returns ``prompt_embeds`` (B, L, D); a warning names the words that the tokenizer's length cuts off."""
        for prompt, cut in zip(prompts, self.truncated(prompts), strict=True):
            if cut:
                # stacklevel 3 goes past torch's wrapper for no_grad, so that the warning names the caller.
                warnings.warn(f"prompt over {self.num_tokens} tokens: {cut!r} of {prompt!r} is cut off", stacklevel=3)
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.num_tokens,
            truncation=True,
            return_tensors="pt",
        )
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0]
        return embeds

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Returns for each prompt the text that the tokenizer cuts off; empty where it cuts nothing."""
        return cut_texts(self.tokenizer, self.num_tokens, prompts)

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        """Returns the UNet's output (B, C, h, w) for latents of that shape and prompt embeddings (B, L, D)."""
        timestep = self._timestep(step, x.device)
        output: Tensor = self.unet(x, timestep, encoder_hidden_states=conditioning, return_dict=False)[0]
        return output

    def _timestep(self, step: Step, device: torch.device) -> Tensor:
        """Returns the timestep as a tensor that is made once.

        A Python number would be copied to the GPU at every call, and compiled for every value.
        """
        key = (step.timestep, device)
        if key not in self._timesteps:
            # A tensor made in inference mode could not be used by a later call with gradients.
            with torch.inference_mode(False):
                self._timesteps[key] = torch.tensor(step.timestep, device=device)
        return self._timesteps[key]

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents (B, C, h, w), cast to the decoder's dtype, to images (B, 3, H, W), nominally in [0, 1]."""
        return decode_latents(self.vae, latents.to(self.vae.dtype))

    def encode_images(self, images: Tensor) -> Tensor:
        """Encodes images (B, 3, H, W) in [0, 1] as latents (B, C, h, w) in the networks' dtype."""
        return encode_images(self.vae, images)
