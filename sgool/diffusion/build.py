"""Builds samplers and gradient engines by their names in the configuration."""

from __future__ import annotations

from typing import Any

from sgool.diffusion.engines import Engine, Truncated
from sgool.diffusion.options import ENGINES, SAMPLERS
from sgool.diffusion.sampler import Sampler


def build_sampler(name: str, **options: Any) -> Sampler:
    """Builds a sampler by its name ("ddim", "edict", "belm", "bdia", "dpm_solver", "native") with its own options.

    Args:
        name: Name of the sampler; "custom" for one of the user's own.
        **options: Arguments of its class; for one of the user's own, ``_target_`` and ``arguments``.

    Raises:
        ConfigError: The name is unknown.
        SgoolError: The options do not fit the sampler.
    """
    return SAMPLERS.build(name, options, "sampler")


def build_engine(name: str, *, gradient_steps: int | None = None, **options: Any) -> Engine:
    """Builds a gradient engine by its name ("direct", "checkpoint", "reversible") with its own options.

    Args:
        name: Name of the engine; "custom" for one of the user's own.
        gradient_steps: How many of the last denoising steps are differentiated (`Truncated`, biased); None: all.
        **options: ``memory_mib`` of checkpoint; ``warn_drift`` and ``max_drift`` of reversible; for one of the user's
            own, ``_target_`` and ``arguments``.

    Raises:
        ConfigError: The name is unknown.
        SgoolError: The options do not fit the engine.
    """
    engine: Engine = ENGINES.build(name, options, "engine")
    return engine if gradient_steps is None else Truncated(gradient_steps, engine)
