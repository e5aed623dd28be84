"""Rules for the keys of `optimization` that make a step: what does not go together, in a sentence each.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sgool.config.rules import list_of, number


def are_betas(value: Any) -> bool:
    """Whether a value is Adam's two decays: a list of two numbers, each at least 0 and below 1."""
    each = number(least=0, below=1)
    return list_of(each, at_least=2).accepts(value) and len(value) == 2


def optimizer_problems(where: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Finds settings of the optimiser and its learning rate that do not go together."""
    optimizer = settings["optimizer"]
    if optimizer == "sgd":
        if settings["nesterov"] and not settings["momentum"]:
            yield f"`{where}`: expected a momentum above 0 where nesterov=true, got {settings['momentum']}"
        if settings["adam"]["weight_decay"]:
            yield (
                f"`{where}`: `optimization.adam.weight_decay`: expected 0 where optimizer=sgd, got "
                f"{settings['adam']['weight_decay']}; set optimization.optimizer=adamw"
            )
    else:
        if settings["nesterov"]:
            yield (
                f"`{where}`: expected nesterov=false where optimizer={optimizer}, whose betas take the momentum's "
                f"place; set nesterov=false, or +{where}.optimization.optimizer=sgd"
            )
        if settings["lr"] >= 1:
            yield (
                f"`{where}`: expected a learning rate below 1 where optimizer={optimizer}, which moves each latent by "
                f"about lr at each update, got {settings['lr']}; set optimization.lr to 0.01 ... 0.1"
            )


def warmup_problems(where: str, settings: Mapping[str, Any], budget: Mapping[str, Any]) -> Iterator[str]:
    """Finds a warm-up as long as the updates, where no budget decides how many there are."""
    updates, warmup = settings["num_optimization_steps"], settings["warmup_updates"]
    if warmup >= updates and not any(budget.values()):
        yield (
            f"`{where}`: `optimization.warmup_updates`: expected less than num_optimization_steps={updates}, got "
            f"{warmup}"
        )


def whiten_problems(where: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Finds what would undo a whitened gradient, or make steps as large as the latents."""
    if not settings["whiten"]["gradient"]:
        return
    rms, clip = settings["gradient_rms"], settings["grad_clip_value"]
    if rms is None and settings["optimizer"] == "sgd":
        yield (
            f"`{where}`: expected a gradient_rms where whiten.gradient=true: a whitened gradient is as large as the "
            "latents; set optimization.gradient_rms=0.02"
        )
    if clip is not None and clip < 3 * (rms or 1):
        yield (
            f"`{where}`: expected grad_clip_value=null where whiten.gradient=true, or at least {3 * (rms or 1):g}, "
            f"three times the gradient's root mean square, got {clip:g}: clipped elements are white no more"
        )
    if settings["saliency_mask"]:
        yield (
            f"`{where}`: expected saliency_mask=false where whiten.gradient=true: whitening spreads the gradient over "
            "all latents, the background's too"
        )
