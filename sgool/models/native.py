"""The model's own scheduler, read out as coefficients by running its `step` on basis vectors.

Almost all of diffusers' schedulers are linear: the latents after a step are a weighted sum of the latents that it began
with, of network outputs, and of noise that it draws. A pixel of the latents that is 1 where a basis vector is 1 then
comes out of `step` as a weight. Each step gets a basis vector of its own for its latents and for the network's output,
so what the scheduler remembers of earlier steps shows as weights of their vectors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sgool.config.pipeline import not_linear
from sgool.errors import SgoolError

if TYPE_CHECKING:
    from sgool.models.scheduling import SchedulerRules

#: What a weight belongs to: "seen", the network's input of a call, its "output", or a "noise" that was drawn; and its
#: number, from 0.
Source: TypeAlias = tuple[Literal["seen", "output", "noise"], int]
Row: TypeAlias = Mapping[Source, float]

#: The scheduler's rounding to float32 changes a result by about 1e-6; clipping changes it by its own size.
_LARGEST_ERROR = 1e-4


@dataclass(frozen=True)
class StepOptions:
    """How a scheduler is asked for its steps, beside their number.

    Attributes:
        timesteps: Timesteps in place of the scheduler's own.
        sigmas: Noise levels in place of the scheduler's own.
        eta: Share of noise that DDIM and TCD draw anew in each step.
    """

    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    eta: float = 0.0


@dataclass(frozen=True)
class NativeSteps:
    """The steps of a scheduler: N network calls, and what the network sees in each.

    Attributes:
        timesteps: Timestep of each call, as the network is told it.
        start: Weight of first latents of unit variance in what the first call sees.
        rows: N rows; row i has the weights of what call i + 1 sees, the last row those of the last latents.
        num_draws: Number of noises that a run of the scheduler draws after the first latents, one after the other.
    """

    timesteps: tuple[float, ...]
    start: float
    rows: tuple[Row, ...]
    num_draws: int

    @property
    def noises(self) -> tuple[int, ...]:
        """Numbers of the draws that have an effect, in order."""
        return tuple(sorted({number for row in self.rows for kind, number in row if kind == "noise"}))


def read_steps(rules: SchedulerRules, ready: Callable[[], Any], options: StepOptions) -> NativeSteps:
    """Reads the steps of a scheduler out, and compares them with a run of it on random numbers.

    Args:
        rules: How the pipeline uses its scheduler.
        ready: Makes a scheduler whose timesteps are set.
        options: What the scheduler was asked for.

    Raises:
        SgoolError: The scheduler is not linear, or does not take the options.
    """
    steps = _Reader(rules, ready(), options).read()
    _check_linear(rules, ready(), options, steps)
    return steps


class _Draws(TorchFunctionMode):
    """Gives the scheduler numbers of our own where it draws noise, in this thread and block alone."""

    def __init__(self, noise: Any) -> None:
        super().__init__()
        self.noise, self.count = noise, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.randn, torch.randn_like, torch.normal):
            self.count += 1
            return self.noise(self.count - 1)
        return func(*args, **(kwargs or {}))


def _step_arguments(scheduler: Any, options: StepOptions) -> dict[str, Any]:
    """Returns the further arguments of a scheduler's ``step``.

    Raises:
        SgoolError: It needs others, or takes no eta.
    """
    kind, step = type(scheduler).__name__, getattr(scheduler, "step", None)
    parameters = inspect.signature(step).parameters if step is not None else {}
    needed = [entry for entry in parameters.values() if entry.default is entry.empty]
    own = [entry.name for entry in needed if entry.kind != entry.VAR_KEYWORD]
    if own[:3] != ["model_output", "timestep", "sample"] or len(own) > 3:
        raise SgoolError(
            f"`sampler`: native needs a scheduler with step(model_output, timestep, sample), and that of {kind} takes "
            f"{', '.join(own) or 'nothing'}; use another sampler"
        )
    if "eta" in parameters:
        return {"eta": options.eta}
    if options.eta:
        raise SgoolError(f"`sampler.eta`: expected 0, since {kind} takes no eta")
    return {}


@dataclass
class _Reader:
    """Runs a scheduler on basis vectors."""

    rules: SchedulerRules
    scheduler: Any
    options: StepOptions
    #: The basis in the order in which vectors were given out.
    sources: list[Source] = field(default_factory=list)

    def read(self) -> NativeSteps:
        rules, scheduler = self.rules, self.scheduler
        timesteps, arguments = rules.call_timesteps(scheduler), _step_arguments(scheduler, self.options)
        # Latents and an output a call; some schedulers draw more than one noise in a step.
        self.size = 6 * len(timesteps) + 2
        rows, seen_scales = [], []
        with _Draws(lambda number: self.vector("noise", number)) as draws:
            for call, timestep in enumerate(timesteps):
                latents = self.vector("seen", call)
                seen = rules.scaled(scheduler, latents, timestep)
                seen_scales.append(float(seen.flatten()[self.sources.index(("seen", call))]))
                output = rules.model_output(seen, self.vector("output", call), timestep)
                results = scheduler.step(output, timestep, latents, return_dict=False, **arguments)
                last = call == len(timesteps) - 1
                rows.append(rules.result(results, len(timesteps)) if last else results[0])
        weights = [self.row(after, seen_scales, call + 1) for call, after in enumerate(rows)]
        start = rules.first_scale(scheduler) * seen_scales[0]
        return NativeSteps(tuple(map(rules.network_time, timesteps)), start, tuple(weights), draws.count)

    def vector(self, kind: Literal["seen", "output", "noise"], number: int) -> Tensor:
        """A new basis vector, in the shape of latents: (1, 1, 1, size), float64."""
        if len(self.sources) == self.size:
            raise SgoolError(f"`sampler`: {type(self.scheduler).__name__} draws noise too often to be read out")
        vector = torch.zeros(1, 1, 1, self.size, dtype=torch.float64)
        vector[..., len(self.sources)] = 1
        self.sources.append((kind, number))
        return vector

    def row(self, latents: Tensor, scales: Sequence[float], call: int) -> Row:
        """The weights of what the network sees of latents; each is for what it saw, and not for the latents."""
        own = scales[call] if call < len(scales) else 1.0
        weights = latents.double().flatten().tolist()
        found = zip(self.sources, weights, strict=False)
        return {
            (kind, number): own * weight / (scales[number] if kind == "seen" else 1.0)
            for (kind, number), weight in found
            if weight
        }


def _check_linear(rules: SchedulerRules, scheduler: Any, options: StepOptions, steps: NativeSteps) -> None:
    """Runs a scheduler as its pipeline does, on random numbers, and compares with what the coefficients give.

    Raises:
        SgoolError: They differ.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(scale: float = 1.0) -> Tensor:
        return scale * torch.empty(1, 4, 8, 8, dtype=torch.float64).normal_(generator=generator)

    timesteps, arguments = rules.call_timesteps(scheduler), _step_arguments(scheduler, options)
    values: dict[Source, Tensor] = {}
    first = draw()
    values["seen", 0], latents = steps.start * first, rules.first_scale(scheduler) * first

    def noise(number: int) -> Tensor:
        return values.setdefault(("noise", number), draw())

    with _Draws(noise):
        for call, timestep in enumerate(timesteps):
            seen = rules.scaled(scheduler, latents, timestep)
            # Outputs larger than a network's: clipping then shows, whatever its range.
            values["output", call] = draw(3.0)
            output = rules.model_output(seen, values["output", call], timestep)
            results = scheduler.step(output, timestep, latents, return_dict=False, **arguments)
            latents = results[0]
            row = steps.rows[call]
            values["seen", call + 1] = sum((weight * values[source] for source, weight in row.items()), 0 * first)
    got, expected = values["seen", len(timesteps)], rules.result(results, len(timesteps)).double()
    error = float((got - expected).abs().max() / expected.abs().max())
    if not error <= _LARGEST_ERROR:
        cuts = [key for key in ("clip_sample", "thresholding") if scheduler.config.get(key)]
        raise SgoolError(not_linear(type(scheduler).__name__, cuts))
