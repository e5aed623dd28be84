"""The AutoencoderKL of the emoji world: f = 4, 16x16x4 latents, close to unit variance per channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from experiments.emoji_world.common import Stage, psnr, scenes_batch
from experiments.emoji_world.scenes import training_scene


def new_autoencoder() -> AutoencoderKL:
    """An untrained AutoencoderKL of 0.9 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
        scaling_factor=1.0,
        force_upcast=False,
        mid_block_add_attention=False,
    )


class AutoencoderStage(Stage):
    """Mean squared error with a little L1, a small KL term, and noise on the latents for a smooth decoder.

    Args:
        painter: Paints the scenes.
        vae: What to train; by default this world's.
        sample: Random scenes for the painter.
        batch_size: Images in a step.
        compile: Whether to compile the network.
        kwargs: Of `Stage`.
    """

    def __init__(
        self,
        painter: Any,
        *,
        vae: AutoencoderKL | None = None,
        sample: Callable[[np.random.Generator], Any] = training_scene,
        batch_size: int = 8,
        compile: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.painter, self.sample, self.batch_size = painter, sample, batch_size
        self.vae = (vae or new_autoencoder()).to(memory_format=torch.channels_last)
        config = self.vae.config
        side = config.sample_size // 2 ** (len(config.block_out_channels) - 1)
        self._shape = (2, batch_size, config.latent_channels, side, side)
        self._forward = torch.compile(self._reconstruct) if compile else self._reconstruct

    def batch(self, rng: np.random.Generator) -> tuple:
        """Training scenes in [-1, 1] and the noise of their latents."""
        _, images = scenes_batch(self.painter, rng, self.batch_size, self.sample)
        noise = torch.from_numpy(rng.standard_normal(self._shape, dtype=np.float32))
        return images * 2 - 1, noise

    def _reconstruct(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moments = self.vae.encoder(images)
        moments = moments if self.vae.quant_conv is None else self.vae.quant_conv(moments)
        mean, logvar = moments.float().chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        latents = mean + torch.exp(0.5 * logvar) * noise[0]
        latents = latents + 0.02 * noise[1] * latents.detach().std()
        latents = latents if self.vae.post_quant_conv is None else self.vae.post_quant_conv(latents)
        return self.vae.decoder(latents).float(), mean, logvar

    def loss(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Reconstruction loss and, for the log, PSNR in dB."""
        decoded, mean, logvar = self._forward(images, noise)
        mse, l1 = F.mse_loss(decoded, images), F.l1_loss(decoded, images)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        ratio = psnr(decoded.detach() / 2 + 0.5, images / 2 + 0.5).mean()
        return {"loss": mse + 0.05 * l1 + 1e-5 * kl, "mse": mse, "kl": kl, "psnr": ratio}


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderKL, images: Tensor) -> None:
    """Folds the latents' mean and standard deviation per channel into the 1x1 quantisation convolutions.

    Afterwards latents have mean 0 and variance 1 per channel, so that ``scaling_factor`` is 1 for every channel.
    """
    mean = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.split(64)])
    shift, scale = mean.mean(dim=(0, 2, 3)), mean.std(dim=(0, 2, 3))
    channels = len(shift)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] /= scale[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - shift) / scale
    quant.bias[channels:] -= 2 * scale.log()
    post.bias += (post.weight[:, :, 0, 0] * shift).sum(1)
    post.weight *= scale[None, :, None, None]
