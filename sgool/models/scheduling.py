"""How pipelines use their schedulers, and the steps of a scheduler as coefficients."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.native import NativeSteps, StepOptions, read_steps
from sgool.models.quiet import without_notes


class SchedulerRules:
    """How a pipeline uses its scheduler; a family overrides what its pipeline does in another way.

    Attributes:
        scheduler: The pipeline's own scheduler, which is never changed.
    """

    scheduler: Any

    def set_timesteps(
        self, scheduler: Any, num_inference_steps: int, options: StepOptions, height: int | None, width: int | None
    ) -> None:
        """Sets a scheduler's timesteps as the pipeline does."""
        scheduler.set_timesteps(**self.timestep_arguments(scheduler, num_inference_steps, options))

    def timestep_arguments(self, scheduler: Any, num_inference_steps: int, options: StepOptions) -> dict[str, Any]:
        """Returns the arguments of ``scheduler.set_timesteps``.

        Raises:
            SgoolError: Both timesteps and sigmas, another number of them than of steps, or a scheduler that takes none.
        """
        given = {name: getattr(options, name) for name in ("timesteps", "sigmas") if getattr(options, name) is not None}
        if len(given) > 1:
            raise SgoolError("`sampler.timesteps`, `sampler.sigmas`: expected one of the two at most, got both")
        known = inspect.signature(scheduler.set_timesteps).parameters
        for name, values in given.items():
            if name not in known:
                raise SgoolError(f"`sampler.{name}`: expected null, since {type(scheduler).__name__} takes no {name}")
            if len(values) != num_inference_steps:
                raise SgoolError(
                    f"`sampler.num_inference_steps`: expected {len(values)}, as many as `sampler.{name}` has, got "
                    f"{num_inference_steps}"
                )
            return {name: list(values)}
        return {"num_inference_steps": num_inference_steps}

    def call_timesteps(self, scheduler: Any) -> Sequence[Tensor]:
        """Timesteps of the network calls."""
        timesteps: Tensor = scheduler.timesteps
        return list(timesteps)

    def first_scale(self, scheduler: Any) -> float:
        """Standard deviation of the first latents."""
        return float(getattr(scheduler, "init_noise_sigma", 1.0))

    def scaled(self, scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
        """What the network sees of latents at a timestep; linear."""
        if not hasattr(scheduler, "scale_model_input"):
            return latents
        seen: Tensor = scheduler.scale_model_input(latents, timestep)
        return seen

    def model_output(self, seen: Tensor, output: Tensor, timestep: Tensor) -> Tensor:
        """What the scheduler is given of the network's output; linear in what the network saw and in its output."""
        return output

    def result(self, results: Sequence[Tensor], num_calls: int) -> Tensor:
        """The last latents, from what the last `step` returned."""
        return results[0]

    def network_time(self, timestep: Tensor) -> float:
        """The timestep as `predict` gets it: whole if the scheduler's are."""
        time: float = timestep.item()
        return time

    def native_steps(
        self, num_inference_steps: int, options: StepOptions, height: int | None = None, width: int | None = None
    ) -> NativeSteps:
        """Returns the steps of the pipeline's own scheduler as coefficients.

        Raises:
            SgoolError: The scheduler is not linear, or does not take the options.
        """
        asked = (num_inference_steps, options, height, width)
        return read_steps(self, lambda: self.ready_scheduler(*asked), options)

    def ready_scheduler(
        self, num_inference_steps: int, options: StepOptions, height: int | None, width: int | None
    ) -> Any:
        """Returns a copy of the pipeline's scheduler whose timesteps are set."""
        scheduler = copy.deepcopy(self.scheduler)
        try:
            with without_notes():
                self.set_timesteps(scheduler, num_inference_steps, options, height, width)
        except (ValueError, TypeError) as error:
            kind = type(scheduler).__name__
            raise SgoolError(
                f"`sampler.num_inference_steps`: {kind} cannot make {num_inference_steps} steps: {error}"
            ) from error
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return scheduler
