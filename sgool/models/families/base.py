"""What the families of transformer and SDXL pipelines share."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.autoencoder import decode_scaled, encode_plain
from sgool.models.family import Conditioning, Defaults, as_dtype
from sgool.models.flow import flow_schedule, is_flow
from sgool.models.native import StepOptions
from sgool.models.offload import working_device
from sgool.models.quiet import without_notes
from sgool.models.schedule import Schedule, Spacing, Step, build_schedule
from sgool.models.scheduling import SchedulerRules
from sgool.models.tokenizers import cut_texts, refuse_empty


class PipelineFamily(SchedulerRules):
    """The frozen networks of a diffusers pipeline; a subclass says what its kind of pipeline does in its own way.

    Args:
        pipeline: The loaded pipeline; its networks are frozen in place, in evaluation mode.
        name: Path or id that it was loaded from.
        call: Arguments of the pipeline's ``__call__`` that differ from their defaults.

    Attributes:
        denoiser: Name of the pipeline's denoising network.
        tokenizers: Names of the pipeline's tokenizers with the number of tokens that each reads; the number may be the
            name of an argument of ``__call__``. None: the tokenizer's own.
    """

    denoiser: ClassVar[str] = "transformer"
    tokenizers: ClassVar[Mapping[str, str | int | None]] = {"tokenizer": None}

    def __init__(self, pipeline: Any, name: str, call: Mapping[str, Any] | None = None) -> None:
        self.pipeline, self.name, self.scheduler = pipeline, name, pipeline.scheduler
        self.network, self.vae = getattr(pipeline, self.denoiser), pipeline.vae
        self._call = dict(call or {})
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        for tokenizer, _ in self._readers():
            refuse_empty(partial(_token_ids, tokenizer), f"`models.path`: {name!r}")

    @classmethod
    def of(cls, pipeline: Any, name: str, call: Mapping[str, Any] | None = None) -> PipelineFamily:
        """Makes the family of a pipeline."""
        return cls(pipeline, name, call)

    @property
    def config(self) -> Any:
        """Configuration of the denoising network."""
        return self.network.config

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the denoising network's weights."""
        dtype: torch.dtype = self.network.dtype
        return dtype

    @property
    def vae_dtype(self) -> torch.dtype:
        """Data type of the autoencoder's weights."""
        dtype: torch.dtype = self.vae.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Device of the denoising network's weights."""
        return working_device(self.network)

    @property
    def denoisers(self) -> Mapping[str, nn.Module]:
        """Network that `predict` calls, by diffusers' name for it."""
        return {self.denoiser: self.network}

    @property
    def num_channels(self) -> int:
        """Number of channels C of the latents."""
        return int(self.config.in_channels)

    @property
    def vae_scale_factor(self) -> int:
        """Factor by which an image's sides are larger than the latents' sides."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def multiple(self) -> int:
        """Number of pixels that the sides of an image are a multiple of."""
        return self.vae_scale_factor * int(getattr(self.config, "patch_size", None) or 1)

    @property
    def defaults(self) -> Defaults:
        """The defaults of the pipeline's ``__call__``."""
        return Defaults(int(self.argument("num_inference_steps")), float(self.argument("guidance_scale")))

    def argument(self, name: str) -> Any:
        """Returns the value of an argument of the pipeline's ``__call__``: as it was given, or its default."""
        if name in self._call:
            return self._call[name]
        return inspect.signature(type(self.pipeline).__call__).parameters[name].default

    def to(self, device: torch.device | str) -> PipelineFamily:
        """Moves the networks to a device, in place, and returns the family itself."""
        self.pipeline.to(device)
        return self

    def cfg_scale(self, guidance_scale: float) -> float:
        """Returns the weight of classifier-free guidance: the scale itself."""
        return guidance_scale

    # -- sizes ------------------------------------------------------------------------------------------------------

    def size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Returns an image's size in pixels; by default that of the pipeline.

        Raises:
            SgoolError: A side is not a positive multiple of `multiple`.
        """
        own = self.default_size()
        sides = (own[0] if height is None else height, own[1] if width is None else width)
        for name, pixels in zip(("height", "width"), sides, strict=True):
            if pixels < self.multiple or pixels % self.multiple:
                near = max(self.multiple, round(pixels / self.multiple) * self.multiple)
                raise SgoolError(
                    f"`models.{name}`: expected a multiple of {self.multiple} pixels for this model, got {pixels}; "
                    f"{near} would do"
                )
        return sides

    def default_size(self) -> tuple[int, int]:
        """Size of the pipeline's images in pixels: the default of its ``__call__``, else that of its network."""
        given = [self.argument(name) for name in ("height", "width")]
        if all(isinstance(side, int) for side in given):
            return given[0], given[1]
        sample = getattr(self.pipeline, "default_sample_size", None) or self.config.sample_size
        pixels = int(sample) * self.vae_scale_factor
        return pixels, pixels

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Returns the shape (C, h, w) of an image's latents; by default for the pipeline's own size.

        Raises:
            SgoolError: The model cannot make an image of that size.
        """
        sides = self.size(height, width)
        return (self.num_channels, *(side // self.vae_scale_factor for side in sides))

    # -- steps ------------------------------------------------------------------------------------------------------

    def schedule(
        self, num_inference_steps: int, spacing: Spacing, height: int | None = None, width: int | None = None
    ) -> Schedule:
        """Returns the steps of the pipeline's own scheduler; a flow has the same for all samplers.

        Raises:
            SgoolError: The number of steps is out of range, or the scheduler has no schedule for these samplers.
        """
        if not is_flow(self.scheduler):
            return build_schedule(self.scheduler, num_inference_steps, spacing)
        most = int(self.scheduler.config.num_train_timesteps)
        if not 1 <= num_inference_steps <= most:
            raise SgoolError(f"`sampler.num_inference_steps`: expected 1 to {most}, got {num_inference_steps}")
        return flow_schedule(self.ready_scheduler(num_inference_steps, StepOptions(), height, width))

    # -- prompts ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None,
        guidance_scale: float,
        height: int | None = None,
        width: int | None = None,
    ) -> tuple[Conditioning, Conditioning | None]:
        """Encodes prompts by the pipeline's own ``encode_prompt``; see `sgool.models.family.Family.encode`."""
        for prompt, cut in zip(prompts, self.truncated(prompts), strict=True):
            if cut:
                # stacklevel 3 goes past torch's wrapper for no_grad, so that the warning names the caller.
                warnings.warn(f"prompt longer than the model reads: {cut!r} of {prompt!r} is cut off", stacklevel=3)
        negative = None if negative_prompts is None else list(negative_prompts)
        with without_notes():
            positive, other = self.conditioning(list(prompts), negative, guidance_scale, self.size(height, width))
        return as_dtype(positive, self.dtype), None if other is None else as_dtype(other, self.dtype)

    def conditioning(
        self, prompts: list[str], negative: list[str] | None, guidance_scale: float, size: tuple[int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """Returns the network's arguments for the prompts and for the negative prompts, if there are such."""
        raise NotImplementedError

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Returns for each prompt the text that no text encoder reads; empty where one reads everything."""
        cuts = [cut_texts(tokenizer, limit, prompts) for tokenizer, limit in self._readers()]
        return [min(texts, key=len) for texts in zip(*cuts, strict=True)]

    def _readers(self) -> Iterator[tuple[Any, int]]:
        for name, limit in self.tokenizers.items():
            tokenizer = getattr(self.pipeline, name, None)
            encoder = getattr(self.pipeline, name.replace("tokenizer", "text_encoder"), None)
            if tokenizer is None or encoder is None:
                continue
            most = self.argument(limit) if isinstance(limit, str) else limit
            yield tokenizer, int(tokenizer.model_max_length if most is None else most)

    # -- networks ---------------------------------------------------------------------------------------------------

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        """Returns the network's output (B, C, h, w); see `sgool.models.family.Family.predict`."""
        assert isinstance(conditioning, Mapping)
        output: Tensor = self.network(hidden_states=x, timestep=self.time(step, x), return_dict=False, **conditioning)[
            0
        ]
        return output

    def time(self, step: Step, x: Tensor) -> Tensor:
        """Returns the timestep (B,) as the network is told it: float32, or int64 if the scheduler's are whole."""
        kind = torch.int64 if isinstance(step.timestep, int) else torch.float32
        return torch.full((len(x),), step.timestep, device=x.device, dtype=kind)

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents, cast to the decoder's dtype, to images (B, 3, H, W), nominally in [0, 1]."""
        return decode_scaled(self.vae, self.unscaled(latents.to(self.vae.dtype)))

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encodes images (B, 3, H, W) in [0, 1] as latents: the mean of the encoder's distribution."""
        return self.scaled_latents(encode_plain(self.vae, images))

    def unscaled(self, latents: Tensor) -> Tensor:
        """Brings latents to the autoencoder's own scale."""
        return latents / self.vae.config.scaling_factor + self._shift

    def scaled_latents(self, latents: Tensor) -> Tensor:
        """Brings latents of the autoencoder's own scale to that of the chain."""
        return (latents - self._shift) * self.vae.config.scaling_factor

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text).input_ids)
