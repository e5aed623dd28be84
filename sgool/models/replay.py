"""Runs a pipeline's own call with given noises, past `torch.no_grad`, and takes its images before they are rounded.

Nothing of the pipeline is known here but diffusers' habits: a noise is drawn by `torch.randn`, a denoising network is a
component that is called, and images pass an image or video processor, or come out of an autoencoder's `decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sgool.errors import SgoolError
from sgool.models.quiet import without_notes

#: Arguments by whose names diffusers' networks are given what they denoise.
_DENOISED = ("hidden_states", "sample", "x")
_HALF = (torch.float16, torch.bfloat16)


@dataclass
class Replayed:
    """What one run of a pipeline's call came to.

    Attributes:
        images: (1, 3, H, W) or (1, 3, F, H, W), nominally in [0, 1], not clamped; None if it was asked for latents.
        result: What the call returned first.
        decoded: What its autoencoder was given.
    """

    images: Tensor | None = None
    result: Any = None
    decoded: list[Tensor] = field(default_factory=list)


@dataclass
class Replay:
    """How a pipeline's call is run.

    Attributes:
        pipeline: The loaded pipeline; what is replaced in it during a run is put back.
        draw: Gives the noise of a draw, by its number from 0 and its shape.
        network: Is given a denoising network's forward pass, the network and the arguments, and returns its output.
            It is given a decoder's pass too, with None in place of the network.
        encoded: The results of the pipeline's ``encode_prompt``, once they are known: prompts are encoded once.
    """

    pipeline: Any
    draw: Callable[[int, tuple[int, ...]], Tensor]
    network: Callable[[Callable[[], Any], nn.Module | None, tuple[Any, ...], Mapping[str, Any]], Any]
    encoded: list[Any] = field(default_factory=list)

    def run(self, arguments: Mapping[str, Any], output_type: str = "pt") -> Replayed:
        """Runs the call for one prompt, with gradients where they are switched on."""
        found, pipeline = Replayed(), self.pipeline
        call = type(pipeline).__call__
        call = getattr(call, "__wrapped__", call)  # past its decorator, which switches gradients off
        with ExitStack() as stack:
            for name, value in list(self._replacements(found, output_type)):
                holder, _, attribute = name.rpartition(".")
                stack.enter_context(_replaced(getattr(pipeline, holder) if holder else pipeline, attribute, value))
            stack.enter_context(without_notes())
            stack.enter_context(_Draws(self.draw))
            found.result = call(pipeline, **arguments, output_type=output_type, return_dict=False)[0]
        if output_type == "pt" and found.images is None:
            found.images = _image(found.result)
        return found

    def _replacements(self, found: Replayed, output_type: str) -> Iterator[tuple[str, Any]]:
        pipeline = self.pipeline
        yield "_progress_bar_config", {"disable": True}
        if getattr(pipeline, "scheduler", None) is not None:
            yield "scheduler", type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        if getattr(pipeline, "safety_checker", None) is not None:
            yield "safety_checker", None  # it looks at pixels that are detached and rounded
        if hasattr(pipeline, "encode_prompt"):
            yield "encode_prompt", _remembered(pipeline.encode_prompt, self.encoded)
        for name, network in denoisers(pipeline).items():
            yield f"{name}.forward", self._denoiser(network)
        for name, network in _autoencoders(pipeline).items():
            yield f"{name}.decode", self._decoder(network, found)
        for name, part in vars(pipeline).items() if output_type == "pt" else ():
            for method in ("postprocess", "postprocess_video"):
                if hasattr(part, method):
                    yield f"{name}.{method}", _processor(found)

    def _denoiser(self, network: nn.Module) -> Callable[..., Any]:
        forward = network.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            dtype = _dtype_of(network)
            # Latents stay in float32 around a network in half precision.
            given = tuple(_cast(value, dtype) if index == 0 else value for index, value in enumerate(args))
            named = {name: _cast(value, dtype) if name in _DENOISED else value for name, value in kwargs.items()}

            def own() -> Any:
                output = forward(*given, **named)
                return _cast(output, torch.float32) if dtype in _HALF else output

            return self.network(own, network, given, named)

        return run

    def _decoder(self, network: nn.Module, found: Replayed) -> Callable[..., Any]:
        decode: Any = network.decode

        def run(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
            found.decoded.append(latents)
            given = _cast(latents, _dtype_of(network))
            output = self.network(lambda: decode(given, *args, **kwargs), None, (), {})
            found.images = _image(output["sample"] if isinstance(output, dict) else output[0])
            return output

        return run


class _Draws(TorchFunctionMode):
    """Gives the pipeline noises of our own where it draws, in this thread and block alone."""

    def __init__(self, draw: Callable[[int, tuple[int, ...]], Tensor]) -> None:
        super().__init__()
        self.draw, self.count = draw, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.randn, torch.randn_like):
            return func(*args, **(kwargs or {}))
        first = args[0] if args else (kwargs or {}).get("size", (kwargs or {}).get("input"))
        size = first.shape if isinstance(first, Tensor) else first if isinstance(first, Sequence) else args
        self.count += 1
        return self.draw(self.count - 1, tuple(map(int, size)))


def denoisers(pipeline: Any) -> dict[str, nn.Module]:
    """Returns a pipeline's networks by name, without its encoders, autoencoders and safety checker."""
    networks = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    known = ("encoder", "safety_checker")
    return {
        name: part for name, part in networks.items() if not callable(getattr(part, "decode", None))
        and not any(word in name for word in known)
    }  # fmt: skip


def _autoencoders(pipeline: Any) -> dict[str, nn.Module]:
    networks = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    return {name: part for name, part in networks.items() if callable(getattr(part, "decode", None))}


def _remembered(encode: Callable[..., Any], known: list[Any]) -> Callable[..., Any]:
    """Returns ``encode`` without gradients; its n-th call in a run returns what the n-th call of the first run did."""
    calls = iter(range(1 << 30))

    def run(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        if number == len(known):
            with torch.no_grad():
                known.append(encode(*args, **kwargs))
        return known[number]

    return run


def _processor(found: Replayed) -> Callable[..., Any]:
    """Takes the images that come to a processor, in [-1, 1], in place of rounding and clamping them."""

    def run(*args: Any, **kwargs: Any) -> Tensor:
        given = args[0] if args else next(iter(kwargs.values()))
        found.images = _image(given)
        assert found.images is not None
        return found.images

    return run


def _image(decoded: Any) -> Tensor | None:
    """Returns pixels of [-1, 1] in [0, 1]; a video of one frame is an image. None for what is no picture."""
    if not isinstance(decoded, Tensor) or decoded.ndim not in (4, 5):
        return None
    images = _cast(decoded, torch.float32) if decoded.dtype in _HALF else decoded
    images = images / 2 + 0.5
    return images[:, :, 0] if images.ndim == 5 and images.shape[2] == 1 else images


def _dtype_of(network: nn.Module) -> torch.dtype:
    return next((own.dtype for own in network.parameters() if own.is_floating_point()), torch.float32)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Casts floating tensors, also in lists and tuples."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_cast(entry, dtype) for entry in value)
    if isinstance(value, dict):  # diffusers' outputs
        for key, entry in value.items():
            value[key] = _cast(entry, dtype)
    return value


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets an attribute of one object inside this block."""
    own = vars(owner)
    before = {name: own[name]} if name in own else {}
    own[name] = value
    try:
        yield
    finally:
        own.pop(name, None)
        own.update(before)


def refuse_shapes(shapes: Sequence[tuple[int, ...]], kind: str) -> None:
    """Refuses a pipeline that draws no noise, or noises of several shapes.

    Raises:
        SgoolError: It does.
    """
    if not shapes:
        raise SgoolError(
            f"`models.family`: replay needs a pipeline that draws its first latents, and {kind} draws none"
        )
    if any(shape != shapes[0] for shape in shapes):
        found = " and ".join(map(str, dict.fromkeys(shapes)))
        raise SgoolError(
            f"`models.family`: replay needs noises that have the shape of the first latents, and {kind} draws {found}"
        )
