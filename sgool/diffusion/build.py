"""Samplers and gradient engines by their names in the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sgool.diffusion.ddim import DDIM
from sgool.diffusion.dpm_solver import DPMSolver
from sgool.diffusion.edict import EDICT
from sgool.diffusion.engines import Checkpoint, Direct, Engine, Reversible, Truncated
from sgool.diffusion.sampler import Sampler
from sgool.diffusion.two_step import BDIA, BELM
from sgool.errors import SgoolError

_SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": DDIM,
    "edict": EDICT,
    "belm": BELM,
    "bdia": BDIA,
    "dpm_solver": DPMSolver,
}
_ENGINES: dict[str, Callable[..., Engine]] = {"direct": Direct, "checkpoint": Checkpoint, "reversible": Reversible}


def build_sampler(name: str, **options: Any) -> Sampler:
    """A sampler by name ("ddim", "edict", "belm", "bdia", "dpm_solver") with its own options.

    Raises:
        SgoolError: Unknown name or option.
    """
    return _build("sampler", _SAMPLERS, name, options)


def build_engine(name: str, *, gradient_steps: int | None = None, **options: Any) -> Engine:
    """A gradient engine by name ("direct", "checkpoint", "reversible") with its own options.

    Args:
        name: Of the engine.
        gradient_steps: Differentiate the last so many steps only (`Truncated`, biased); None: all.
        **options: ``memory_mib`` of checkpoint; ``warn_drift`` and ``max_drift`` of reversible.

    Raises:
        SgoolError: Unknown name or option.
    """
    engine = _build("engine", _ENGINES, name, options)
    return engine if gradient_steps is None else Truncated(gradient_steps, engine)


def _build(kind: str, known: dict[str, Callable[..., Any]], name: str, options: dict[str, Any]) -> Any:
    if name not in known:
        raise SgoolError(f"`{kind}.name`: expected one of {', '.join(known)}, got {name!r}")
    try:
        inspect.signature(known[name]).bind(**options)
    except TypeError as error:
        raise SgoolError(f"`{kind}`: {name} does not take {sorted(options)}: {error}") from error
    return known[name](**options)
