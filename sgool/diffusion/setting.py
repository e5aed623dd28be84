"""What a chain is made of: a model, a sampler with its steps, a gradient engine, guidance and a size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from sgool.diffusion.build import build_engine, build_sampler
from sgool.diffusion.cuts import CutGuard
from sgool.diffusion.engines import Engine
from sgool.diffusion.network import guides
from sgool.diffusion.sampler import Sampler
from sgool.errors import SgoolError
from sgool.models.family import Family
from sgool.models.load import family_of, load_models
from sgool.models.memory import checkpoint_blocks
from sgool.models.schedule import Schedule

SettingT = TypeVar("SettingT", bound="ChainSetting")


class ChainSetting:
    """The parts of a `sgool.diffusion.Chain` and what they say of it; nothing here needs prompts.

    Its arguments, attributes and errors are those of `sgool.diffusion.Chain`.
    """

    def __init__(
        self,
        family: Family,
        *,
        num_inference_steps: int | None = 20,
        guidance_scale: float | None = 7.5,
        sampler: Sampler | str | None = None,
        engine: Engine | str | None = None,
        height: int | None = None,
        width: int | None = None,
        decode: str = "both",
        split_guidance: bool = False,
        block_checkpointing: bool = False,
    ) -> None:
        if decode not in ("both", "x"):
            raise SgoolError(f"`sampler.decode`: expected both or x, got {decode!r}")
        self.family, self._size, self._split_guidance = family, (height, width), split_guidance
        self.num_inference_steps: int = family.defaults.num_inference_steps
        self.guidance_scale: float = family.defaults.guidance_scale
        if num_inference_steps is not None:
            self.num_inference_steps = num_inference_steps
        if guidance_scale is not None:
            self.guidance_scale = guidance_scale
        self.cfg_scale = family.cfg_scale(self.guidance_scale)
        self.latent_shape()  # refuses a wrong size now
        sampler = build_sampler(sampler or "ddim") if sampler is None or isinstance(sampler, str) else sampler
        self.engine = build_engine(engine or "checkpoint") if engine is None or isinstance(engine, str) else engine
        self.sampler, self.schedule = self._scheduled(sampler)
        self.moves = self.sampler.moves(self.schedule)
        self.engine.check(self.sampler.name, self.moves, self.latents_dtype)
        self.num_decoded = 1 if decode == "x" else self.sampler.num_streams
        self._cuts = CutGuard()  # shared by the copies of a chain, so that it looks once
        if block_checkpointing:
            checkpoint_blocks(family)

    def _scheduled(self, sampler: Sampler) -> tuple[Sampler, Schedule]:
        """Returns the sampler and the steps of the model for it; some samplers read them from the model themselves."""
        own: Any = getattr(sampler, "scheduled", None)
        if own is not None:
            found: tuple[Sampler, Schedule] = own(self.family, self.num_inference_steps, *self._size)
            return found
        return sampler, self.family.schedule(self.num_inference_steps, sampler.spacing, *self._size)

    @classmethod
    def from_pretrained(
        cls: type[SettingT],
        path: str | Path = "emoji_world",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype | None = None,
        vae_tile_size: int | None = None,
        channels_last: bool = False,
        compile: bool | str = False,
        offload_text_encoders: bool = False,
        offload: str | None = None,
        family: str | None = None,
        call: Mapping[str, Any] | None = None,
        loading: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> SettingT:
        """Loads a model and returns its chain.

        Args:
            path: A folder written by ``save_pretrained``, a hub id, a single file of weights, or "emoji_world" for the
                embedded model.
            device: Where the networks go; None: the accelerator if there is one.
            dtype: Data type of the networks' weights.
            vae_dtype: The same of the autoencoder; None: ``dtype``.
            vae_tile_size: Side of the tiles in pixels in which larger images are decoded; None: no tiles.
            channels_last: Whether convolutions work in that memory format.
            compile: Whether torch.compile translates the denoising network at its first calls; "blocks": only one of
                each kind of its repeated blocks.
            offload_text_encoders: Whether text encoders wait in the memory of the CPU while they do not encode.
            offload: "model": all networks wait in the memory of the CPU, and one at a time is on the device.
            family: Name of the model's family; None: that of the pipeline's class.
            call: Arguments of the pipeline's ``__call__`` that differ from their defaults.
            loading: Any of config, variant, components, scheduler, loras and quantization; see
                `sgool.config.loading.Loading`.
            **options: Further arguments of `Chain`.

        Raises:
            SgoolError: The model cannot be loaded, or an option is wrong.
        """
        memory: dict[str, Any] = {"vae_dtype": vae_dtype, "vae_tile_size": vae_tile_size}
        memory |= {"channels_last": channels_last, "compile": compile, "offload_text_encoders": offload_text_encoders}
        memory |= {"offload": offload, "loading": loading}
        return cls(load_models(path, device=device, dtype=dtype, family=family, call=call, **memory), **options)

    @classmethod
    def from_pipeline(
        cls: type[SettingT],
        pipeline: Any,
        *,
        family: str | None = None,
        call: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> SettingT:
        """Returns the chain of a loaded diffusers pipeline; its networks are frozen in place and not copied.

        Args:
            pipeline: A pipeline of a class that a family is for (`sgool.config.families`).
            family: Name of the family; None: that of the pipeline's class.
            call: Arguments of the pipeline's ``__call__`` that differ from their defaults, such as
                ``max_sequence_length``.
            **options: Further arguments of `Chain`.

        Raises:
            SgoolError: There is no family for the pipeline's class, or an option is wrong.
        """
        return cls(family_of(pipeline, family, call), **options)

    @property
    def name(self) -> str:
        """Path or id that the networks were loaded from."""
        return self.family.name

    @property
    def device(self) -> torch.device:
        """Device of the networks' weights."""
        return self.family.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the denoising network's weights."""
        return self.family.dtype

    @property
    def latents_dtype(self) -> torch.dtype:
        """Data type of latents and of the sampler's arithmetic: at least float32, whatever the networks' dtype is."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def num_streams(self) -> int:
        """Number S of latents that the chain starts from and ends with."""
        return self.sampler.num_streams

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Returns the shape (C, h, w) of the latents of an image of this size; by default the chain's own size.

        Raises:
            SgoolError: The model cannot make an image of that size.
        """
        own_height, own_width = self._size
        return self.family.latent_shape(own_height if height is None else height, own_width if width is None else width)

    @property
    def is_guided(self) -> bool:
        """Whether there is classifier-free guidance, so that negative prompts are read."""
        return guides(self.cfg_scale)

    @property
    def noise_draws(self) -> tuple[int, ...]:
        """The noises that the sampler adds on the way: numbers of their draws, from 0, after the first latents."""
        return tuple(getattr(self.sampler, "noises", ()))
