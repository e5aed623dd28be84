"""Any pipeline of diffusers, without an adapter: its own ``__call__`` is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sgool.config.families import replay_call_problems
from sgool.errors import SgoolError
from sgool.models.family import Conditioning, Defaults
from sgool.models.native import StepOptions
from sgool.models.offload import working_device
from sgool.models.replay import Replay, Replayed, denoisers, refuse_shapes


@dataclass(frozen=True)
class ReplayPlan:
    """What is known of a pipeline's runs with given settings.

    Attributes:
        arguments: Of the pipeline's call, without prompts.
        latent_shape: Shape (C, h, w) of each noise that it draws, without the batch.
        num_draws: How many it draws: the first latents, then those that its scheduler injects.
        num_calls: Calls of its denoising networks for one image.
        num_steps: Denoising steps.
    """

    arguments: Mapping[str, Any]
    latent_shape: tuple[int, ...]
    num_draws: int
    num_calls: int
    num_steps: int


class ReplayFamily:
    """The family `replay`: a pipeline whose own call makes the images. `sgool.diffusion.replay` makes its chain.

    Args:
        pipeline: The loaded pipeline; its networks are frozen in place, in evaluation mode.
        name: Path or id that it was loaded from.
        call: Arguments of the pipeline's ``__call__``, whichever it has.

    Raises:
        SgoolError: It has no such argument, the run sets it itself, or the pipeline has no denoising network.
    """

    is_replay = True

    def __init__(self, pipeline: Any, name: str, call: Mapping[str, Any] | None = None) -> None:
        self.pipeline, self.name, self._call = pipeline, name, dict(call or {})
        self.scheduler = getattr(pipeline, "scheduler", None)
        self.vae = getattr(pipeline, "vae", None)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        if not self.denoisers:
            raise SgoolError(
                f"`models.family`: replay needs a pipeline with a denoising network, and {self.kind} has none"
            )
        if problems := replay_call_problems(self._call, tuple(self.parameters), self.kind):
            raise SgoolError("; ".join(problems))

    @classmethod
    def of(cls, pipeline: Any, name: str, call: Mapping[str, Any] | None = None) -> ReplayFamily:
        """Makes the family of a pipeline."""
        return cls(pipeline, name, call)

    @property
    def kind(self) -> str:
        """Name of the pipeline's class."""
        return type(self.pipeline).__name__

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Parameters of the pipeline's ``__call__``."""
        return inspect.signature(type(self.pipeline).__call__).parameters

    @property
    def denoisers(self) -> Mapping[str, nn.Module]:
        """Networks that a run calls, by the pipeline's names for them."""
        return denoisers(self.pipeline)

    @property
    def _first(self) -> Tensor:
        return next(next(iter(self.denoisers.values())).parameters())

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the first denoising network's weights."""
        return self._first.dtype

    @property
    def vae_dtype(self) -> torch.dtype:
        """Data type of the autoencoder's weights, or of the denoising network's if there is no ``vae``."""
        return self.dtype if self.vae is None else next(self.vae.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the first denoising network's weights."""
        return working_device(next(iter(self.denoisers.values())))

    @property
    def defaults(self) -> Defaults:
        """The defaults of the pipeline's ``__call__``; of what it has no argument for, 1."""
        steps, scale = (self._default(name, 1) for name in ("num_inference_steps", "guidance_scale"))
        return Defaults(int(steps), float(scale))

    def _default(self, name: str, otherwise: Any) -> Any:
        default = self.parameters[name].default if name in self.parameters else None
        return otherwise if default in (None, inspect.Parameter.empty) else default

    @property
    def reads_negative_prompts(self) -> bool:
        """Whether the pipeline's call has negative prompts."""
        return "negative_prompt" in self.parameters

    def to(self, device: torch.device | str) -> ReplayFamily:
        """Moves the networks to a device, in place, and returns the family itself."""
        self.pipeline.to(device)
        return self

    def cfg_scale(self, guidance_scale: float) -> float:
        """Returns the scale itself: the pipeline makes of it what it does."""
        return guidance_scale

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Returns an empty text for each prompt: what a pipeline cuts off is not known."""
        return [""] * len(prompts)

    def plan(
        self,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        options: StepOptions,
        height: int | None,
        width: int | None,
    ) -> ReplayPlan:
        """Finds out what a run with these settings draws and calls; what is None is the pipeline's own.

        The pipeline's call is run once for an empty prompt. Each of its networks is called once for each shape of its
        inputs, and its output serves for all steps.

        Raises:
            SgoolError: The pipeline takes no such setting or refuses one, draws no noise, or noises of several shapes.
        """
        given = {
            "sampler.num_inference_steps": num_inference_steps,
            "sampler.guidance_scale": guidance_scale,
            "sampler.timesteps": options.timesteps and list(options.timesteps),
            "sampler.sigmas": options.sigmas and list(options.sigmas),
            "sampler.eta": options.eta or None,
            "models.height": height,
            "models.width": width,
        }
        arguments = dict(self._call)
        for key, value in given.items():
            name = key.rpartition(".")[2]
            if value is None:
                continue
            if name not in self.parameters:
                raise SgoolError(f"`{key}`: expected null, since the call of {self.kind} has no {name}, got {value}")
            arguments[name] = value
        try:
            shapes, calls = self._probe(arguments)
        except (ValueError, TypeError) as error:
            raise SgoolError(f"`models.family`: the call of {self.kind} refuses {arguments}: {error}") from error
        refuse_shapes(shapes, self.kind)
        steps = self.defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
        return ReplayPlan(arguments, shapes[0][1:], len(shapes), calls, steps)

    @torch.no_grad()
    def _probe(self, arguments: Mapping[str, Any]) -> tuple[list[tuple[int, ...]], int]:
        """Returns the shapes of the noises that are drawn, and the number of network calls."""
        shapes: list[tuple[int, ...]] = []
        generator, known, calls = torch.Generator().manual_seed(0), {}, []

        def draw(number: int, shape: tuple[int, ...]) -> Tensor:
            shapes.append(shape)
            noise = torch.empty(shape).normal_(generator=generator)
            return noise.to(self.device, torch.float64 if self.dtype == torch.float64 else torch.float32)

        def network(run: Callable[[], Any], own: nn.Module | None, args: Any, kwargs: Mapping[str, Any]) -> Any:
            if own is None:
                return run()
            values = [*args, *kwargs.values()]
            key = (id(own), *(tuple(value.shape) for value in values if isinstance(value, Tensor)))
            calls.append(key)
            if key not in known:
                known[key] = run()
            return known[key]

        self.replay(("", ""), arguments, draw, network, [])
        return shapes, len(calls)

    def replay(
        self,
        texts: tuple[str, str],
        arguments: Mapping[str, Any],
        draw: Callable[[int, tuple[int, ...]], Tensor],
        network: Callable[..., Any],
        encoded: list[Any],
        output_type: str = "pt",
    ) -> Replayed:
        """Runs the pipeline's call for a prompt and a negative prompt; see `sgool.models.replay.Replay`.

        An empty negative prompt is not given to the pipeline, whose default it then is.

        Raises:
            SgoolError: It makes no pixels.
        """
        told = {name: text for name, text in zip(("prompt", "negative_prompt"), texts, strict=True) if text}
        found = Replay(self.pipeline, draw, network, encoded).run({"prompt": "", **told, **arguments}, output_type)
        if output_type == "pt" and (found.images is None or found.images.shape[:2] != (1, 3)):
            shape = None if found.images is None else tuple(found.images.shape)
            raise SgoolError(
                f"`models.family`: replay needs a pipeline that decodes (1, 3, H, W) or (1, 3, frames, H, W) for one "
                f"prompt, and {self.kind} made {'no pixels' if shape is None else shape}"
            )
        return found

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Raises an error: only a chain, which knows the other settings, knows it."""
        self._refuse("a shape of latents of its own")

    def encode(self, *args: Any, **kwargs: Any) -> tuple[Conditioning, Conditioning | None]:
        """Raises an error: the pipeline encodes prompts within its call."""
        self._refuse("encoded prompts")

    def encode_images(self, images: Tensor) -> Tensor:
        """Raises an error: how a pipeline's latents are scaled is not known."""
        self._refuse("latents of given images")

    def _refuse(self, what: str) -> NoReturn:
        raise SgoolError(f"`models.family`: replay runs the pipeline's own call and has no {what}")
