"""The denoising chain as one object: networks, schedule, sampler, gradient engine, guidance and decoder."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion.budget import network_calls, recomputed_calls
from sgool.diffusion.build import build_engine, build_sampler
from sgool.diffusion.engines import Engine
from sgool.diffusion.invert import Inversion, invert_latents
from sgool.diffusion.moves import State
from sgool.diffusion.network import GuidedModel, guides, unread_negative_prompts
from sgool.diffusion.sampler import Sampler
from sgool.errors import SgoolError
from sgool.models.family import Conditioning, Family
from sgool.models.load import family_of, load_models
from sgool.types import Denoised


class Chain:
    """The denoising chain of a model, from first latents to images and differentiable with respect to the latents.

    A chain is made once for a model and shared. `with_prompts` returns a chain of the same parts that has prompts and
    counts its own network calls:

        chain = Chain.from_pretrained("emoji_world", num_inference_steps=12, guidance_scale=4)
        images = chain.with_prompts(["a red cat"])(torch.randn(1, 1, *chain.latent_shape())).images

    S is the sampler's number of streams (2 for EDICT, else 1), B the number of prompts.

    Args:
        family: Frozen networks, for example what `sgool.load_models` returns.
        num_inference_steps: Denoising steps.
        guidance_scale: Weight of classifier-free guidance; at 1 or less there is none, as in diffusers.
        sampler: A sampler or its name ("ddim", "edict", "belm", "bdia", "dpm_solver"); by default "ddim".
        engine: A gradient engine or its name ("direct", "checkpoint", "reversible"); by default "checkpoint".
        height, width: Size of the images in pixels; by default the model's own.
        decode: "both" decodes all S streams, "x" only the first.
        split_guidance: Run conditional and unconditional pass one after the other, with half the activations.

    Attributes:
        family, sampler, engine, guidance_scale, num_inference_steps: As given or by default.
        schedule: The denoising steps, noisiest first.
        moves: The moves that the sampler makes of the schedule.
        num_decoded: How many streams become images.

    Raises:
        SgoolError: A size or a number of steps that the model does not have, an unknown sampler, engine or way to
            decode, a sampler that the engine cannot run, or an unknown prediction type.
    """

    def __init__(
        self,
        family: Family,
        *,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
        sampler: Sampler | str | None = None,
        engine: Engine | str | None = None,
        height: int | None = None,
        width: int | None = None,
        decode: str = "both",
        split_guidance: bool = False,
    ) -> None:
        if decode not in ("both", "x"):
            raise SgoolError(f"`sampler.decode`: expected both or x, got {decode!r}")
        self.family, self.guidance_scale, self.num_inference_steps = family, guidance_scale, num_inference_steps
        self.sampler = build_sampler(sampler or "ddim") if sampler is None or isinstance(sampler, str) else sampler
        self.engine = build_engine(engine or "checkpoint") if engine is None or isinstance(engine, str) else engine
        self.schedule = family.schedule(num_inference_steps, self.sampler.spacing)
        self.moves = self.sampler.moves(self.schedule)
        self.engine.check(self.sampler.name, self.moves, self.latents_dtype)
        self.num_decoded = 1 if decode == "x" else self.sampler.num_streams
        self._size, self._split_guidance = (height, width), split_guidance
        self._network: GuidedModel | None = None
        self.latent_shape()  # refuses a wrong size now

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = "emoji_world",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype | None = None,
        channels_last: bool = False,
        compile: bool = False,
        **options: Any,
    ) -> Chain:
        """Loads a model and returns its chain.

        Args:
            path: A folder written by ``save_pretrained``, a hub id, or "emoji_world" for the embedded model.
            device: Where the networks go; None: the accelerator if there is one.
            dtype: Data type of the networks' weights.
            vae_dtype: The same of the autoencoder; None: ``dtype``.
            channels_last: Whether convolutions work in that memory format.
            compile: Whether torch.compile translates the denoising network at its first calls.
            **options: Further arguments of `Chain`.

        Raises:
            SgoolError: The model cannot be loaded, or an option is wrong.
        """
        memory: dict[str, Any] = {"vae_dtype": vae_dtype, "channels_last": channels_last, "compile": compile}
        return cls(load_models(path, device=device, dtype=dtype, **memory), **options)

    @classmethod
    def from_pipeline(cls, pipeline: Any, **options: Any) -> Chain:
        """Returns the chain of a loaded diffusers pipeline; its networks are frozen in place and not copied.

        Args:
            pipeline: A ``StableDiffusionPipeline``.
            **options: Further arguments of `Chain`.

        Raises:
            SgoolError: There is no family for the pipeline's class, or an option is wrong.
        """
        return cls(family_of(pipeline), **options)

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

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encodes prompts as the network's conditioning; a warning names the words that the model does not read."""
        return self.family.encode_prompts(prompts)

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Returns for each prompt the text that the model does not read; empty where it reads everything."""
        return self.family.truncated(prompts)

    def with_prompts(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Chain:
        """Returns a chain for B prompts that shares all parts with this one and counts its network calls from 0.

        Args:
            prompts: The B prompts.
            negative_prompts: Texts of the unconditional pass, one a prompt; by default empty. Without guidance
                (``guidance_scale`` of 1 or less) there is no such pass; a warning says so if a text is given.

        Raises:
            SgoolError: No prompts, another number of negative ones, networks that are not frozen, or a guidance scale
                that is not finite.
        """
        negative_prompts = [""] * len(prompts) if negative_prompts is None else negative_prompts
        if not prompts or len(negative_prompts) != len(prompts):
            raise SgoolError(
                "`prompts`, `negative_prompts`: expected at least one prompt and as many negative ones, got "
                f"{len(prompts)} and {len(negative_prompts)}"
            )
        conditioning = self.encode_prompts(prompts)
        guided = guides(self.guidance_scale)
        if not guided and any(negative_prompts):
            warnings.warn(unread_negative_prompts(self.guidance_scale), stacklevel=2)
        negative = self.encode_prompts(negative_prompts) if guided else None
        return self.with_conditioning(conditioning, negative)

    def with_conditioning(self, conditioning: Conditioning, negative: Conditioning | None = None) -> Chain:
        """Returns a chain for prompts that `encode_prompts` has encoded already; otherwise as `with_prompts`.

        Raises:
            SgoolError: As for `with_prompts`, or the conditioning has another shape or dtype or requires gradients.
        """
        chain, split = copy.copy(self), self._split_guidance
        chain._network = GuidedModel(self.family, conditioning, negative, self.guidance_scale, split_guidance=split)
        return chain

    @property
    def network(self) -> GuidedModel:
        """Guided network with the chain's prompts, which can be called for a single denoising step.

        Raises:
            SgoolError: The chain has no prompts.
        """
        if self._network is None:
            raise SgoolError("this chain has no prompts: call `chain.with_prompts(prompts)` and use what it returns")
        return self._network

    @property
    def calls(self) -> int:
        """Number of network calls made through this chain, recomputation in backward included; may be set."""
        return 0 if self._network is None else self._network.calls

    @calls.setter
    def calls(self, value: int) -> None:
        self.network.calls = value

    @property
    def sampling_calls(self) -> int:
        """Number of network calls that one image takes."""
        return network_calls(self.moves)

    def optimization_calls(self, latents: Tensor, num_optimization_steps: int) -> int:
        """Counts the network calls that so many updates of latents (S, B, C, h, w) take, as a record gives them.

        Each is a forward pass and what the engine recomputes in backward; the latents after the last one are evaluated
        without gradients. An engine with a budget of memory is measured with one call of the network.
        """
        recomputed = recomputed_calls(self.moves, self.num_streams, self.engine, self.network, latents[0])
        return num_optimization_steps * (self.sampling_calls + recomputed) + self.sampling_calls

    def __call__(self, latents: Tensor) -> Denoised:
        """Denoises and decodes latents (S, B, C, h, w), of unit variance or found by `invert`, from any device.

        Raises:
            SgoolError: As for `run_state`.
        """
        final = self.denoise(latents.to(self.device))
        return Denoised(final, torch.stack([self.decode(stream) for stream in final[: self.num_decoded]]))

    def denoise(self, latents: Tensor) -> Tensor:
        """Denoises first latents (S, B, C, h, w) and returns the last ones, of the same shape.

        Raises:
            SgoolError: As for `run_state`.
        """
        return torch.stack(self.sampler.finish(self.run_state(latents)))

    def run_state(self, latents: Tensor) -> State:
        """Runs the sampler and returns its whole last state, from which an exact inverse leads back.

        Raises:
            SgoolError: Before any network call: the chain has no prompts, the latents have a wrong shape, dtype or
                device or are not finite, or the engine cannot run their dtype.
        """
        self.network.check_latents(latents, self.sampler.name, self.sampler.accepted_streams)
        self.engine.check(self.sampler.name, self.moves, latents.dtype)
        return self.engine.run(self.sampler.begin(latents), self.moves, self.network)

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents (B, C, h, w) of any floating dtype to images (B, 3, H, W), nominally in [0, 1], unclamped."""
        return self.family.decode(latents)

    def encode_images(self, images: Tensor) -> Tensor:
        """Encodes images (B, 3, H, W) in [0, 1] as latents (B, C, h, w) in `latents_dtype`, without gradients."""
        return self.family.encode_images(images.to(self.device)).to(self.latents_dtype)

    def invert(self, images: Tensor, refinements: int = 0) -> Inversion:
        """Finds first latents that lead to images (B, 3, H, W) in [0, 1]; see `invert_latents`."""
        return self.invert_latents(self.encode_images(images)[None], refinements)

    def invert_latents(self, latents: Tensor, refinements: int = 0) -> Inversion:
        """Finds first latents that lead to given last ones, without gradients.

        The inverse is exact for EDICT, BDIA and O-BELM, and approximate for DDIM. A step of DDIM cannot be solved for
        the network's input, so the network sees the latents after the step instead (Song et al. 2021, section 4.3).
        Each of ``refinements`` repeats this with the better guess and comes closer to the exact inverse, for one more
        network call: a fixed-point iteration (Pan et al. 2023, "Effective Real Image Editing with Accelerated Iterative
        Diffusion Inversion"). Two-step samplers also need the latents one step before the last; these come from such an
        approximate step. It changes which first latents are found, but denoising them still leads back exactly. A
        ``guidance_scale`` of 1 is usual for inversion, since guidance above 1 amplifies errors.

        Args:
            latents: Latents (1, B, C, h, w), stacked as `invert` does, or a whole last state (2, B, C, h, w) of EDICT
                or a two-step sampler, as `run_state` returns it.
            refinements: Number of fixed-point iterations per approximate step.

        Raises:
            SgoolError: The sampler has no inverse (DPM-Solver++), the chain has no prompts, the latents are wrong, or
                ``refinements`` is negative.
        """
        return invert_latents(self, latents, refinements)
