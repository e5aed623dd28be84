"""The callbacks of a fit, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L

from sgool.callbacks.base import Column
from sgool.callbacks.gradient import (
    ClipGradient,
    ClipGradientNorm,
    MaskGradient,
    NormalizeGradient,
    TieGradients,
)
from sgool.callbacks.guard import NonFiniteGuard
from sgool.callbacks.latents import Perturb, Renormalize, TieLatents
from sgool.callbacks.penalties import Gaussianity, NormRegularizer, Penalty, PowerSpectrum
from sgool.callbacks.schedule import ScheduleLearningRate
from sgool.callbacks.stopping import EarlyStop
from sgool.callbacks.trajectory import Trajectory
from sgool.callbacks.whiten import WhitenGradient, WhitenLatents


def default_callbacks(
    *,
    grad_clip_value: float | None = 1e-3,
    grad_clip_norm: float | None = None,
    gradient_rms: float | None = None,
    perturb_std: float = 1e-4,
    perturb_schedule: str = "constant",
    tie: bool = True,
    renormalize: bool = True,
    norm_regularizer: float = 0,
    gaussianity: Mapping[str, Any] | None = None,
    power_spectrum: Mapping[str, Any] | None = None,
    whiten: Mapping[str, Any] | None = None,
    lr_schedule: str = "constant",
    warmup_updates: int = 0,
    saliency_mask: bool = False,
    early_stop: EarlyStop | None = None,
    keep: str = "best",
    snapshot_every: int | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[L.Callback]:
    """DOODL's callbacks in their order, with those of other methods where they are asked for.

    None, 0 or False leaves one out; so does a ``gaussianity`` or ``power_spectrum`` (arguments of `Gaussianity` and
    `PowerSpectrum`) of weight 0. ``whiten`` has "gradient" and "latents" (whether), and "block".

    Examples:
        >>> from sgool import default_callbacks
        >>> [type(callback).__name__ for callback in default_callbacks(perturb_std=0, renormalize=False)]
        ['NonFiniteGuard', 'TieGradients', 'ClipGradient', 'TieLatents', 'Trajectory']
    """
    penalties = _penalties(norm_regularizer, gaussianity, power_spectrum)
    stopping = [early_stop] if early_stop is not None else []
    white = {"gradient": False, "latents": False, "block": 16, **(whiten or {})}
    scheduled = lr_schedule != "constant" or warmup_updates
    rates = [ScheduleLearningRate(lr_schedule, warmup_updates)] if scheduled else []
    before: list[L.Callback] = [*penalties, *stopping, NonFiniteGuard(on_note)]
    before += [TieGradients()] if tie else []
    before += [MaskGradient()] if saliency_mask else []
    before += [WhitenGradient(white["block"])] if white["gradient"] else []
    before += [NormalizeGradient(gradient_rms)] if gradient_rms is not None else []
    before += [ClipGradientNorm(grad_clip_norm)] if grad_clip_norm is not None else []
    before += [ClipGradient(grad_clip_value)] if grad_clip_value is not None else []
    after: list[L.Callback] = [Perturb(perturb_std, perturb_schedule)] if perturb_std else []
    after += [TieLatents()] if tie else []
    after += [WhitenLatents(white["block"])] if white["latents"] else []
    after += [Renormalize()] if renormalize else []
    columns: list[Column] = [*penalties, *stopping, *rates]
    return [*before, *rates, *after, Trajectory(keep, snapshot_every, columns)]


def _penalties(
    norm_regularizer: float, gaussianity: Mapping[str, Any] | None, power_spectrum: Mapping[str, Any] | None
) -> list[Penalty]:
    chosen = ((Gaussianity, gaussianity), (PowerSpectrum, power_spectrum))
    norm: list[Penalty] = [NormRegularizer(norm_regularizer)] if norm_regularizer else []
    return norm + [penalty(**options) for penalty, options in chosen if options and options["weight"]]
