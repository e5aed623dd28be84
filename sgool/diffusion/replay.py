"""The chain of the family `replay`: a pipeline's own call, differentiable with respect to the noises that it draws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sgool.diffusion.build import build_engine, build_sampler
from sgool.diffusion.chain import Chain
from sgool.diffusion.engines import Checkpoint, Direct, Engine
from sgool.diffusion.native import Native
from sgool.diffusion.sampler import Sampler
from sgool.errors import SgoolError
from sgool.models.families.replay import ReplayFamily
from sgool.models.replay import Replayed
from sgool.types import Denoised


class ReplaySampler(Native):
    """The sampler of a pipeline's own call: its loop, its scheduler, and the noises that it injects."""

    def __init__(self, native: Native, num_noises: int) -> None:
        self.options, self.noises = native.options, tuple(range(num_noises))
        self.accepted_streams = (1 + num_noises,)


@dataclass
class ReplayedNetwork:
    """The prompts of a chain, and the network calls that their runs have made.

    Attributes:
        prompts: The B prompts, with the negative ones.
        calls: Network calls for one image, recomputation in backward included.
        backward_calls: Those whose gradient was computed.
        encoded: For each prompt what the pipeline's ``encode_prompt`` returned.
    """

    prompts: tuple[tuple[str, str], ...]
    calls: int = 0
    backward_calls: int = 0
    encoded: list[list[Any]] = field(default_factory=list)

    @property
    def batch_size(self) -> int:
        """Number B of prompts."""
        return len(self.prompts)

    def count_backward(self) -> None:
        """Counts a network call whose gradient comes."""
        self.backward_calls += 1


class ReplayChain(Chain):
    """A chain whose denoising and decoding are a pipeline's own ``__call__``; otherwise as `sgool.diffusion.Chain`.

    The noises that the call draws are given: first latents, then those that its scheduler injects. The prompts of a
    batch are run one after the other, so that no pipeline can mix them. With the engine ``checkpoint`` each network
    call is made again in backward, with ``direct`` all activations are kept.

    ``num_inference_steps``, ``guidance_scale``, ``height`` and ``width`` become arguments of the call; None leaves each
    to the pipeline.

    Raises:
        SgoolError: Another sampler than `native`, another engine, or a setting that the call does not take.
    """

    family: Any
    sampler: Any

    def __init__(
        self,
        family: ReplayFamily,
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
        sampler = build_sampler(sampler or "native") if sampler is None or isinstance(sampler, str) else sampler
        engine = build_engine(engine or "checkpoint") if engine is None or isinstance(engine, str) else engine
        _check(sampler, engine, split_guidance, block_checkpointing)
        assert isinstance(sampler, Native)
        self.family, self.engine, self._size = family, engine, (height, width)
        plan = family.plan(num_inference_steps, guidance_scale, sampler.options, height, width)
        self.plan, self.sampler, self.num_inference_steps = (
            plan,
            ReplaySampler(sampler, plan.num_draws - 1),
            plan.num_steps,
        )
        own = family.defaults.guidance_scale
        self.guidance_scale = self.cfg_scale = own if guidance_scale is None else guidance_scale
        self.moves, self.num_decoded = (), 1
        self.schedule: Any = sorted((name, str(value)) for name, value in plan.arguments.items())

    @property
    def is_guided(self) -> bool:
        """Whether the pipeline reads negative prompts."""
        return self.family.reads_negative_prompts

    @property
    def sampling_calls(self) -> int:
        """Number of network calls that one image takes; a pipeline may make several at a step."""
        return self.plan.num_calls

    def recomputed_calls(self, latents: Tensor | None) -> int:
        """Number of network calls that one backward pass makes again."""
        return 0 if isinstance(self.engine, Direct) else self.plan.num_calls

    @property
    def differentiated_calls(self) -> int:
        """Number of network calls whose gradient one backward pass computes."""
        return self.plan.num_calls

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Returns the shape of the noises that the pipeline draws, without the batch."""
        if (height, width) not in ((None, None), self._size):
            raise SgoolError("`models.family`: replay knows the latents of the chain's own size alone")
        return self.plan.latent_shape

    def with_prompts(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Chain:
        """Returns a chain for B prompts; a negative prompt that is empty is left to the pipeline.

        Raises:
            SgoolError: No prompts, another number of negative ones, or some that the pipeline does not read.
        """
        negative = [""] * len(prompts) if negative_prompts is None else list(negative_prompts)
        if not prompts or len(negative) != len(prompts):
            raise SgoolError(
                "`prompts`, `negative_prompts`: expected at least one prompt and as many negative ones, got "
                f"{len(prompts)} and {len(negative)}"
            )
        if any(negative) and not self.is_guided:
            raise SgoolError(f"`negative_prompts`: expected none, since the call of {self.family.kind} takes none")
        chain: Any = copy.copy(self)
        texts = tuple(zip(prompts, negative, strict=True))
        chain._network, chain._noises = ReplayedNetwork(texts, encoded=[[] for _ in texts]), None
        made: Chain = chain
        return made

    def __call__(self, latents: Tensor) -> Denoised:
        """Runs the pipeline for first latents (1, B, C, h, w), or with its noises (1 + K, B, C, h, w).

        Returns:
            What the autoencoder was given (1, B, ...), and the images (1, B, 3, H, W), of videos (1, B, 3, F, H, W).

        Raises:
            SgoolError: As for `sgool.diffusion.Chain`, or the pipeline cuts the gradient.
        """
        runs = [self._run(streams, index, "pt") for index, streams in enumerate(self._streams(latents))]
        images = torch.cat([run.images for run in runs if run.images is not None])[None]
        if torch.is_grad_enabled() and latents.requires_grad and not images.requires_grad:
            raise SgoolError(
                f"`models.family`: replay found no gradient from the images of {self.family.kind} to its first "
                "latents: the pipeline, or a network in it, switches gradients off"
            )
        return Denoised(torch.cat([torch.cat(run.decoded) for run in runs])[None], images)

    def denoise(self, latents: Tensor) -> Tensor:
        """Returns what the pipeline calls its latents (``output_type="latent"``): (1, B, ...)."""
        streams = self._streams(latents)
        return torch.cat([self._run(own, index, "latent").result for index, own in enumerate(streams)])[None]

    def first_images(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) of latents (S, B, C, h, w)."""
        return self(latents).images[0]

    def _streams(self, latents: Tensor) -> Sequence[Tensor]:
        """Checks latents and returns for each pair its noises (1 + K, 1, C, h, w)."""
        network: Any = self.network
        latents = latents.to(self.device)
        if self.noise_draws and len(latents) == 1:
            if self._noises is None:
                raise SgoolError(
                    f"this pipeline adds {len(self.noise_draws)} noises on the way: call `chain.with_noises(noises)`, "
                    "or give them with the first latents"
                )
            latents = torch.cat([latents, self._noises.to(latents)])
        expected = (1 + len(self.noise_draws), network.batch_size, *self.plan.latent_shape)
        if tuple(latents.shape) != expected or not latents.is_floating_point():
            raise SgoolError(f"`latents`: expected shape {expected}, got {tuple(latents.shape)} of {latents.dtype}")
        if not torch.isfinite(latents.detach()).all():
            raise SgoolError("`latents`: expected finite numbers, got NaN or infinity before the first step")
        return latents.split(1, dim=1)

    def _run(self, streams: Tensor, index: int, output_type: str) -> Replayed:
        network: Any = self.network
        (prompt, negative), kept = network.prompts[index], isinstance(self.engine, Direct)

        def draw(number: int, shape: tuple[int, ...]) -> Tensor:
            if number >= len(streams) or shape != tuple(streams.shape[1:]):
                raise SgoolError(
                    f"`models.family`: {self.family.kind} draws other noises for {prompt!r} than for an empty prompt: "
                    f"{shape} as number {number}"
                )
            return streams[number]

        def call(run: Callable[[], Any], module: nn.Module | None, args: Any, kwargs: Mapping[str, Any]) -> Any:
            def counted() -> Any:
                # Calls are counted for one image: those of the first pair stand for all.
                network.calls += index == 0 and module is not None
                return run()

            if not torch.is_grad_enabled():
                return counted()
            output = counted() if kept else _checkpointed(counted)
            if (
                module is not None
                and index == 0
                and (tensor := _first_tensor(output)) is not None
                and tensor.requires_grad
            ):
                tensor.register_hook(lambda gradient: network.count_backward())
            return output

        texts = (prompt, negative)
        return self.family.replay(texts, self.plan.arguments, draw, call, network.encoded[index], output_type)

    def decode(self, latents: Tensor) -> Tensor:
        """Raises an error: the pipeline decodes within its call."""
        self._refuse("decodes its latents within the pipeline's call: call the chain itself")

    def run_state(self, latents: Tensor) -> NoReturn:
        """Raises an error: the state of the pipeline's loop is its own."""
        self._refuse("denoises within the pipeline's call: call the chain itself")

    def with_conditioning(self, conditioning: Any, negative: Any = None) -> NoReturn:
        """Raises an error: the pipeline encodes prompts within its call."""
        self._refuse("encodes prompts within the pipeline's call: use `with_prompts`")

    def encode_prompts(self, prompts: Sequence[str]) -> NoReturn:
        """Raises an error: the pipeline encodes prompts within its call."""
        self._refuse("encodes prompts within the pipeline's call")

    def encode_images(self, images: Tensor) -> NoReturn:
        """Raises an error: there is no way back from images."""
        self._refuse("has no inverse, so that it cannot begin with an image")

    def invert_latents(self, latents: Tensor, refinements: int = 0) -> NoReturn:
        """Raises an error: there is no way back from images."""
        self._refuse("has no inverse, so that it cannot begin with an image")

    def _refuse(self, what: str) -> NoReturn:
        raise SgoolError(f"`models.family`: replay {what}")


def _check(sampler: Sampler, engine: Engine, split_guidance: bool, block_checkpointing: bool) -> None:
    problems = []
    if not isinstance(sampler, Native):
        problems.append(
            f"`sampler`: expected native with models.family=replay, which runs the pipeline's own scheduler, got "
            f"{sampler.name}"
        )
    if not isinstance(engine, (Direct, Checkpoint)) or (isinstance(engine, Checkpoint) and engine.memory_mib):
        problems.append(
            f"`engine`: expected checkpoint (with memory_mib 0) or direct with models.family=replay, whose network "
            f"calls are the pipeline's, got {engine.name}"
        )
    if split_guidance:
        problems.append(
            "`engine.split_guidance`: expected false with models.family=replay, whose guidance is the pipeline's"
        )
    if block_checkpointing:
        problems.append(
            "`engine.block_checkpointing`: expected false with models.family=replay, which computes each network call "
            "again as a whole"
        )
    if problems:
        raise SgoolError("; ".join(problems))


def _checkpointed(run: Callable[[], Any]) -> Any:
    return checkpoint(run, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


def _first_tensor(output: Any) -> Tensor | None:
    """Returns the first tensor of a network's output."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return next((tensor for value in values if (tensor := _first_tensor(value)) is not None), None)
