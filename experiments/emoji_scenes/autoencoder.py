"""The AutoencoderKL of the emoji scenes: f = 8, 16x16x16 latents, few channels where the image is large."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor


def new_autoencoder() -> AutoencoderKL:
    """An untrained AutoencoderKL of 1.5 M parameters, without quantisation convolutions, as Stable Diffusion 3's."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,
        shift_factor=0.0,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderKL, images: Tensor) -> None:
    """Brings every latent channel to one variance and sets ``shift_factor`` and ``scaling_factor``.

    Channels are scaled in the encoder's last and the decoder's first convolution, which changes no image. The mean
    over all channels becomes ``shift_factor``: a shift per channel cannot be folded in, as the decoder pads with zeros.
    """
    mean = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.split(32)])
    deviation = mean.std(dim=(0, 2, 3))
    channels = len(deviation)
    out, first = vae.encoder.conv_out, vae.decoder.conv_in
    out.weight[:channels] /= deviation[:, None, None, None]
    out.bias[:channels] /= deviation
    out.bias[channels:] -= 2 * deviation.log()
    first.weight *= deviation[None, :, None, None]
    scaled = mean / deviation[:, None, None]
    vae.register_to_config(shift_factor=float(scaled.mean()), scaling_factor=float(1 / scaled.std()))
