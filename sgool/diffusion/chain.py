"""The denoising chain as one object: networks, schedule, sampler, gradient engine, guidance and decoder."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion.budget import differentiated_calls, network_calls, recomputed_calls
from sgool.diffusion.invert import Inversion, invert_latents
from sgool.diffusion.moves import State
from sgool.diffusion.network import GuidedModel, unread_negative_prompts
from sgool.diffusion.setting import ChainSetting
from sgool.errors import SgoolError
from sgool.models.family import Conditioning
from sgool.types import Denoised


class Chain(ChainSetting):
    """The denoising chain of a model, from first latents to images and differentiable with respect to the latents.

    A chain is made once for a model and shared. `with_prompts` returns a chain of the same parts that has prompts and
    counts its own network calls. S is the sampler's number of streams (2 for EDICT, else 1), B the number of prompts.

    Args:
        family: Frozen networks, for example what `sgool.load_models` returns.
        num_inference_steps: Denoising steps; None: the default of the model's pipeline.
        guidance_scale: Weight of classifier-free guidance; at 1 or less there is none, as in diffusers. Some models
            have no such guidance and are told the scale instead. None: the default of the model's pipeline.
        sampler: A sampler or its name ("ddim", "edict", "belm", "bdia", "dpm_solver", "native"); by default "ddim".
        engine: A gradient engine or its name ("direct", "checkpoint", "reversible"); by default "checkpoint".
        height, width: Size of the images in pixels; by default the model's own.
        decode: "both" decodes all S streams, "x" only the first.
        split_guidance: Run conditional and unconditional pass one after the other, with half the activations.
        block_checkpointing: Keep only what enters the blocks of the network and of the decoder, and compute each block
            again in backward. This switches the networks themselves, also for other chains of the same family.

    Attributes:
        family, sampler, engine, guidance_scale, num_inference_steps: As given or by default.
        schedule: The denoising steps, noisiest first.
        moves: The moves that the sampler makes of the schedule.
        num_decoded: How many streams become images.
        cfg_scale: Weight of classifier-free guidance in the network's output; 1 or less: there is none.

    Raises:
        SgoolError: A size or a number of steps that the model does not have, an unknown sampler, engine or way to
            decode, a sampler that the engine cannot run, or an unknown prediction type.

    Examples:
        >>> import torch
        >>> from sgool import Chain
        >>> chain = Chain.from_pretrained("emoji_world", num_inference_steps=2, guidance_scale=4)
        >>> latents = torch.randn(1, 1, *chain.latent_shape(), requires_grad=True)
        >>> (images,) = chain.with_prompts(["a red cat"])(latents).images
        >>> images.mean().backward()
        >>> tuple(images.shape), tuple(latents.grad.shape)
        ((1, 3, 64, 64), (1, 1, 4, 16, 16))
    """

    _network: GuidedModel | None = None
    _noises: Tensor | None = None

    def __new__(cls, family: Any = None, **options: Any) -> Any:
        """Makes the chain of a pipeline's own call where the family is `replay`."""
        if cls is Chain and getattr(family, "is_replay", False):
            from sgool.diffusion.replay import ReplayChain

            return super().__new__(ReplayChain)
        return super().__new__(cls)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encodes prompts as the network's conditioning; a warning names the words that the model does not read."""
        return self.family.encode(prompts, None, self.guidance_scale, *self._size)[0]

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
        if not self.is_guided and any(negative_prompts):
            warnings.warn(unread_negative_prompts(self.guidance_scale), stacklevel=2)
        read = negative_prompts if self.is_guided else None
        return self.with_conditioning(*self.family.encode(prompts, read, self.guidance_scale, *self._size))

    def with_conditioning(self, conditioning: Conditioning, negative: Conditioning | None = None) -> Chain:
        """Returns a chain for prompts that `encode_prompts` has encoded already; otherwise as `with_prompts`.

        Raises:
            SgoolError: As for `with_prompts`, or the conditioning has another shape or dtype or requires gradients.
        """
        chain, split = copy.copy(self), self._split_guidance
        chain._network = GuidedModel(self.family, conditioning, negative, self.cfg_scale, split_guidance=split)
        chain._noises = None
        return chain

    def with_noises(self, noises: Tensor | None) -> Chain:
        """Returns this chain with the noises (K, B, C, h, w) that its sampler adds on the way; the calls are shared.

        Only `native` adds such noises. K is the number of `noise_draws`, in their order. The chain then starts from
        the first latents alone. Latents of 1 + K streams, the first ones and the noises, are taken as they are, so
        that gradients go to all of them.

        Raises:
            SgoolError: Another number of noises.
        """
        count = 0 if noises is None else len(noises)
        if count != len(self.noise_draws):
            raise SgoolError(f"`noises`: expected {len(self.noise_draws)}, those of {self.sampler.name}, got {count}")
        chain = copy.copy(self)
        chain._noises = noises if count else None
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

    def optimization_calls(self, latents: Tensor | None, num_optimization_steps: int) -> int:
        """Counts the network calls that so many updates of latents (S, B, C, h, w) take, as a record gives them.

        Each is a forward pass and what the engine recomputes in backward; the latents after the last one are evaluated
        without gradients. For latents and the rest see `recomputed_calls`.
        """
        again = self.recomputed_calls(None if latents is None else latents[0])
        return num_optimization_steps * (self.sampling_calls + again) + self.sampling_calls

    def recomputed_calls(self, latents: Tensor | None) -> int:
        """Counts the network calls that one backward pass makes again.

        Args:
            latents: Latents (B, C, h, w); for an engine that keeps activations in a budget of memory, one call of the
                network with them measures how many it keeps. None: as if it kept none.
        """
        return recomputed_calls(self.moves, self.num_streams, self.engine, self.network, latents)

    @property
    def differentiated_calls(self) -> int:
        """Number of network calls whose gradient one backward pass computes."""
        return differentiated_calls(self.moves, self.num_streams, self.engine)

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
                device or are not finite, or the engine cannot run their dtype. Before the first gradient: it is cut
                inside the network.
        """
        if self.noise_draws and len(latents) == self.num_streams:
            if self._noises is None:
                raise SgoolError(
                    f"this chain's sampler adds {len(self.noise_draws)} noises on the way: call "
                    "`chain.with_noises(noises)`, or give them with the first latents"
                )
            latents = torch.cat([latents, self._noises.to(latents)])
        self.network.check_latents(latents, self.sampler.name, self.sampler.accepted_streams)
        self.engine.check(self.sampler.name, self.moves, latents.dtype)
        state = self.sampler.begin(latents)
        calling = next((move for move in self.moves if move.calls_network), None)
        if calling is not None and torch.is_grad_enabled() and latents.requires_grad:
            self._cuts.check(self.network, state[calling.source], calling.step)
        return self.engine.run(state, self.moves, self.network)

    def first_images(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) of the first stream of latents (S, B, C, h, w); the others are not decoded."""
        return self.decode(self.denoise(latents)[0])

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
