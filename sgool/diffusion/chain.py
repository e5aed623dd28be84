"""The denoising chain as one object: networks, schedule, sampler, gradient engine, guidance and decoder."""

from __future__ import annotations

import copy
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
from sgool.diffusion.network import GuidedModel
from sgool.diffusion.sampler import Sampler
from sgool.errors import SgoolError
from sgool.models.family import Conditioning, Family
from sgool.models.load import family_of, load_models
from sgool.types import Denoised


class Chain:
    """From first latents to images, differentiable with respect to the latents.

    A chain is made once for a model and shared. `with_prompts` gives a chain of the same parts with prompts and a count
    of network calls of its own:

        chain = Chain.from_pretrained("emoji_world", num_inference_steps=12, guidance_scale=4)
        images = chain.with_prompts(["a red cat"])(torch.randn(1, 1, *chain.latent_shape())).images

    S is the sampler's number of streams (2 for EDICT, else 1), B the number of prompts.

    Args:
        family: Frozen networks, for example what `sgool.load_models` returns.
        num_inference_steps: Denoising steps.
        guidance_scale: Weight of classifier-free guidance; 1 is none.
        sampler: A sampler or the name of one ("ddim", "edict", "belm", "bdia", "dpm_solver"); by default "ddim".
        engine: How gradients are made, or the name of it ("direct", "checkpoint", "reversible"); by default
            "checkpoint".
        height, width: Size of the images in pixels; by default the model's own.
        decode: "both": decode all S streams. "x": the first alone.
        split_guidance: Conditional and unconditional pass one after the other: half the activations.

    Attributes:
        family, sampler, engine, guidance_scale, num_inference_steps: As given or by default.
        schedule: The denoising steps, noisiest first.
        moves: What the sampler makes of the schedule.
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
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        compile: bool = False,
        **options: Any,
    ) -> Chain:
        """A chain of the model at a path.

        Args:
            path: A folder written by ``save_pretrained``, a hub id, or "emoji_world" for the embedded model.
            device: Where the networks go.
            dtype: Data type of the networks' weights.
            channels_last: Whether convolutions work in that memory format.
            compile: Whether torch.compile translates the denoising network at its first calls.
            **options: Those of `Chain`.

        Raises:
            SgoolError: The model cannot be loaded, or an option is wrong.
        """
        family = load_models(path, device=device, dtype=dtype, channels_last=channels_last, compile=compile)
        return cls(family, **options)

    @classmethod
    def from_pipeline(cls, pipeline: Any, **options: Any) -> Chain:
        """A chain of a loaded diffusers pipeline, whose networks are frozen in place and stay where they are.

        Args:
            pipeline: A ``StableDiffusionPipeline``.
            **options: Those of `Chain`.

        Raises:
            SgoolError: There is no family for the pipeline's class, or an option is wrong.
        """
        return cls(family_of(pipeline), **options)

    @property
    def name(self) -> str:
        """What the networks were loaded from."""
        return self.family.name

    @property
    def device(self) -> torch.device:
        """The networks' device."""
        return self.family.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the network's weights."""
        return self.family.dtype

    @property
    def latents_dtype(self) -> torch.dtype:
        """Latents and the sampler's arithmetic stay in float32 at least, whatever the network's dtype is."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def num_streams(self) -> int:
        """S, how many latents the chain starts from and ends with."""
        return self.sampler.num_streams

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """(C, h, w) of the latents of an image of so many pixels; by default of the chain's own size.

        Raises:
            SgoolError: The model cannot make an image of that size.
        """
        own_height, own_width = self._size
        return self.family.latent_shape(own_height if height is None else height, own_width if width is None else width)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """What the network is told of the prompts; a warning names the words that it does not read."""
        return self.family.encode_prompts(prompts)

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Per prompt, the text that the model does not read (empty: it reads all)."""
        return self.family.truncated(prompts)

    def with_prompts(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Chain:
        """A chain for these B prompts that shares all parts with this one and counts its own network calls from 0.

        Args:
            prompts: What the network is told.
            negative_prompts: Texts of the unconditional pass, one a prompt; by default empty ones. Not read where
                ``guidance_scale`` is 1.

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
        negative = None if self.guidance_scale == 1 else self.encode_prompts(negative_prompts)
        return self.with_conditioning(conditioning, negative)

    def with_conditioning(self, conditioning: Conditioning, negative: Conditioning | None = None) -> Chain:
        """`with_prompts`, but for what `encode_prompts` has made of the prompts already.

        Raises:
            SgoolError: As `with_prompts`, or a conditioning of another shape or dtype, or one that wants gradients.
        """
        chain = copy.copy(self)
        chain._network = GuidedModel(
            self.family, conditioning, negative, self.guidance_scale, split_guidance=self._split_guidance
        )
        return chain

    @property
    def network(self) -> GuidedModel:
        """The guided network with the chain's prompts, to be called step by step.

        Raises:
            SgoolError: The chain has no prompts.
        """
        if self._network is None:
            raise SgoolError("this chain has no prompts: call `chain.with_prompts(prompts)` and use what it returns")
        return self._network

    @property
    def calls(self) -> int:
        """Network calls made through this chain, recomputation in backward included; may be set."""
        return 0 if self._network is None else self._network.calls

    @calls.setter
    def calls(self, value: int) -> None:
        self.network.calls = value

    @property
    def sampling_calls(self) -> int:
        """Network calls of one image."""
        return network_calls(self.moves)

    def optimization_calls(self, latents: Tensor, num_optimization_steps: int) -> int:
        """Network calls that an optimisation of latents is recorded to use.

        Each update is a forward pass and what the engine recomputes in backward; the latents after the last one are
        evaluated without gradients. An engine with a budget of memory is measured with one call of the network.

        Args:
            latents: (S, B, C, h, w), to measure with.
            num_optimization_steps: Updates.
        """
        recomputed = recomputed_calls(self.moves, self.num_streams, self.engine, self.network, latents[0])
        return num_optimization_steps * (self.sampling_calls + recomputed) + self.sampling_calls

    def __call__(self, latents: Tensor) -> Denoised:
        """Denoises and decodes latents (S, B, C, h, w), of unit variance or found by `invert`, from any device.

        Raises:
            SgoolError: As `run_state`.
        """
        final = self.denoise(latents.to(self.device))
        return Denoised(final, torch.stack([self.decode(stream) for stream in final[: self.num_decoded]]))

    def denoise(self, latents: Tensor) -> Tensor:
        """The latents (S, B, C, h, w) at the end of the schedule, of first ones of that shape.

        Raises:
            SgoolError: As `run_state`.
        """
        return torch.stack(self.sampler.finish(self.run_state(latents)))

    def run_state(self, latents: Tensor) -> State:
        """The sampler's whole last state, from which an exact inverse leads back.

        Raises:
            SgoolError: Before any network call: a chain without prompts, latents of a wrong shape, dtype or device or
                that are not finite, or a dtype that the engine cannot run.
        """
        self.network.check_latents(latents, self.sampler.name, self.sampler.accepted_streams)
        self.engine.check(self.sampler.name, self.moves, latents.dtype)
        return self.engine.run(self.sampler.begin(latents), self.moves, self.network)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), nominally in [0, 1] and not clamped, of latents (B, C, h, w) of any floating dtype."""
        return self.family.decode(latents)

    def encode_images(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) in `latents_dtype`, without gradients, of images (B, 3, H, W) in [0, 1]."""
        return self.family.encode_images(images.to(self.device)).to(self.latents_dtype)

    def invert(self, images: Tensor, refinements: int = 0) -> Inversion:
        """First latents that lead to images (B, 3, H, W) in [0, 1], see `invert_latents`."""
        return self.invert_latents(self.encode_images(images)[None], refinements)

    def invert_latents(self, latents: Tensor, refinements: int = 0) -> Inversion:
        """First latents that lead to given last ones, without gradients.

        Exact for EDICT, BDIA and O-BELM. For DDIM approximate: its step is not solvable for what the network saw, so
        the network is asked at the latents after the step instead (Song et al. 2021, section 4.3); ``refinements``
        repeats that with the better guess, a fixed-point iteration (Pan et al. 2023, "Effective Real Image Editing with
        Accelerated Iterative Diffusion Inversion"), one more network call each, towards the exact inverse. Two-step
        samplers need the latents of one step before the last as well; they come from such an approximate step, which
        changes where the inversion leads, not that denoising leads back. ``guidance_scale`` 1 is usual for inversion,
        since guidance above 1 amplifies errors.

        Args:
            latents: (1, B, C, h, w), as `encode_images` gives them, or a whole last state (2, B, C, h, w) of EDICT or a
                two-step sampler, as `run_state` gives it.
            refinements: Fixed-point iterations per approximate step.

        Raises:
            SgoolError: A sampler without inverse (DPM-Solver++), a chain without prompts, wrong latents, or negative
                refinements.
        """
        return invert_latents(self, latents, refinements)
