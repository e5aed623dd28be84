"""Before the step: what is done to the gradient."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.nn import functional as F

from sgool.callbacks.base import UpdateCallback, require_positive, tied_streams
from sgool.errors import SgoolError


class TieGradients(UpdateCallback):
    """Gives both streams the mean of their gradients; those of injected noises stay as they are."""

    order = 40

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Averages the gradient over the streams."""
        gradient = tied_streams(self.gradient(pl_module), pl_module)
        gradient.copy_(gradient.mean(dim=0, keepdim=True).expand_as(gradient))


class MaskGradient(UpdateCallback):
    """Weights the gradient with the saliency map of the current image, averaged over the pixels of each latent.

    Of a video, each frame of the latents has the mean map of the frames that it stands for. Latents of the background
    get little of the step. Noise and renormalisation still move all latents: switch them off
    (``perturb_std`` 0, ``renormalize`` false) where the background has to stay.
    """

    order = 45

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Weights the gradient in place; both streams with the map of the first one's image."""
        saliency = pl_module.evaluation.output.saliency_map
        if saliency is None:
            raise SgoolError(
                "`optimization.saliency_mask`: expected an objective with saliency, got none; use a method with "
                "use_saliency=true"
            )
        gradient = self.gradient(pl_module)
        frames, height, width = gradient.shape[-3:]
        maps = saliency.to(gradient)
        if maps.ndim == 5:
            gradient.mul_(F.adaptive_avg_pool3d(maps, (frames, height, width)))
        else:
            gradient.mul_(F.adaptive_avg_pool2d(maps, (height, width)))


class NormalizeGradient(UpdateCallback):
    """Scales each pair's gradient, over all its elements and streams, to a root mean square of ``rms`` per element.

    The papers clip raw gradients at 1e-3, which suits Stable Diffusion's scale only; a normalised gradient makes the
    step size independent of the model, the objective's scale and the number of crops.
    """

    order = 50

    def __init__(self, rms: float) -> None:
        require_positive("gradient_rms", rms)
        self.rms = rms

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Scales the gradient in place."""
        gradient = self.gradient(pl_module)
        size = gradient.square().mean(dim=(0, *range(2, gradient.ndim)), keepdim=True).sqrt()
        gradient.mul_(self.rms / size.clamp_min(1e-12))


class ClipGradientNorm(UpdateCallback):
    """Shortens each pair's gradient, over all its elements and streams, to a Euclidean norm of at most ``value``."""

    order = 55

    def __init__(self, value: float) -> None:
        require_positive("grad_clip_norm", value)
        self.value = value

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Scales the gradient in place."""
        gradient = self.gradient(pl_module)
        norm = gradient.square().sum(dim=(0, *range(2, gradient.ndim)), keepdim=True).sqrt()
        gradient.mul_(self.value / norm.clamp_min(self.value))


class ClipGradient(UpdateCallback):
    """Clips each element of the gradient to ±``value``."""

    order = 60

    def __init__(self, value: float) -> None:
        require_positive("grad_clip_value", value)
        self.value = value

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Clips the gradient in place."""
        self.gradient(pl_module).clamp_(-self.value, self.value)
