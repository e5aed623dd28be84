"""The networks that the benchmark runs on."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from sgool import load_models
from sgool.diffusion import Chain
from sgool.models.stable_diffusion import StableDiffusion

Attention = Literal["fused", "classic"]


@dataclass(frozen=True)
class Network:
    """A frozen UNet with one prompt and its schedule.

    Attributes:
        steps: Steps of EDICT in the default run; DPM-Solver++ makes two fifths of them (20 for 50).
        attention: What sgool's rows run with on this device: as diffusers builds the mid-size network, as
            `load_models` sets up the embedded one.
    """

    name: str
    unet: Any
    scheduler: Any
    size: int
    embeds: Tensor
    negative: Tensor
    guidance_scale: float
    steps: int
    attention: Attention

    def chain(self, steps: int, guidance_scale: float | None = None, **options: Any) -> Chain:
        """A chain with the prompt, without autoencoder and text encoder; the options are those of `Chain`."""
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        autoencoder = SimpleNamespace(config=SimpleNamespace(block_out_channels=(1,)))
        family = StableDiffusion(autoencoder, self.unet, None, None, self.scheduler, self.name)
        chain = Chain(family, num_inference_steps=steps, guidance_scale=scale, **options)
        return chain.with_conditioning(self.embeds, None if scale == 1 else self.negative)

    def latents(self, streams: int) -> Tensor:
        """The same first latents for each stream, (S, 1, 4, h, w)."""
        generator = torch.Generator().manual_seed(0)
        # On the CPU: the same numbers on every device.
        first = torch.randn(1, self.unet.config.in_channels, self.size, self.size, generator=generator)
        return first.expand(streams, *first.shape).to(self.embeds).clone()

    def prepare(self, attention: Attention | None = None, channels_last: bool = False) -> None:
        """Sets the attention kernel (None: this network's own) and the memory format of the convolutions' weights.

        Fused is `scaled_dot_product_attention`, the default of diffusers; classic is a softmax between two products.
        """
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        fused = (attention or self.attention) == "fused"
        self.unet.set_attn_processor(AttnProcessor2_0() if fused else AttnProcessor())
        self.unet.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    @property
    def million_weights(self) -> float:
        """Size of the UNet."""
        return sum(parameter.numel() for parameter in self.unet.parameters()) / 1e6


def load_network(name: str, device: str = "cpu") -> Network:
    """Either "mid" (random weights, the layout of Stable Diffusion's UNet) or "embedded" (the emoji world)."""
    return _mid(device) if name == "mid" else _embedded(device)


def _mid(device: str) -> Network:
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(128, 256, 256),
        layers_per_block=1,
        cross_attention_dim=768,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    unet.requires_grad_(False).eval().to(device)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1
    )
    embeds, negative = torch.randn(2, 1, 77, 768).to(device)
    return Network("mid", unet, scheduler, 32, embeds, negative, 7.5, 5, "fused")


def _embedded(device: str) -> Network:
    models = load_models("emoji_world", device=device)
    classic = any(type(one).__name__ == "AttnProcessor" for one in models.unet.attn_processors.values())
    embeds, negative = (models.encode_prompts([prompt]) for prompt in ("a green cat above a red house", ""))
    attention: Attention = "classic" if classic else "fused"
    return Network("embedded", models.unet, models.scheduler, 16, embeds, negative, 4.0, 10, attention)
