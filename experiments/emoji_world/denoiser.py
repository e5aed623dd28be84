"""The UNet2DConditionModel of the emoji world, trained on precomputed latents with a frozen text encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.emoji_world.captions import caption
from experiments.emoji_world.common import Stage, save_atomically, scenes_batch
from experiments.emoji_world.scenes import Scene, training_scene


def new_unet() -> UNet2DConditionModel:
    """An untrained UNet; attention at 8x8 only: an optimisation step is twice as fast as with both resolutions."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 160),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """The schedule of Stable Diffusion 1.x."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


@torch.no_grad()
def encode_scenes(
    vae: AutoencoderKL,
    painter: Any,
    number: int,
    seed: int,
    file: Path,
    sample: Callable[[np.random.Generator], Any] = training_scene,
) -> tuple[list, Tensor]:
    """Scenes of ``sample(rng)`` and their latents (N, C, 16, 16) in float16; cached in ``file``."""
    rng = np.random.default_rng(seed)
    if file.is_file():
        saved = torch.load(file, weights_only=False)  # written by this function on this machine
        return saved["scenes"], saved["latents"]
    scenes: list[Scene] = []
    latents: list[Tensor] = []
    while len(scenes) < number:
        batch, images = scenes_batch(painter, rng, 100, sample)
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(images * 2 - 1).latent_dist.mean.half())
        scenes += batch
    result = torch.cat(latents)
    save_atomically({"scenes": scenes, "latents": result}, file)
    return scenes, result


class DenoiserStage(Stage):
    """Noise prediction with min-SNR weighting (Hang et al. 2023, gamma = 5) and 10 % caption dropout."""

    def __init__(
        self,
        scenes: list[Scene],
        latents: Tensor,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        *,
        batch_size: int = 32,
        compile: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.unet = new_unet().to(memory_format=torch.channels_last)
        self._frozen = (text_encoder, scenes, latents)
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.register_buffer("alphas_cumprod", new_scheduler().alphas_cumprod, persistent=False)
        self._forward = torch.compile(self._predict) if compile else self._predict

    def batch(self, rng: np.random.Generator) -> tuple:
        """Clean latents, noise, timesteps and prompt embeddings."""
        text_encoder, scenes, latents = self._frozen
        index = rng.integers(len(scenes), size=self.batch_size)
        texts = ["" if rng.random() < 0.1 else caption(scenes[i], rng, background=0.5).text for i in index]
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            prompt_embeds = text_encoder(tokens).last_hidden_state.float()
        clean = latents[torch.from_numpy(index)].float().contiguous(memory_format=torch.channels_last)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        noise = noise.contiguous(memory_format=torch.channels_last)
        timesteps = torch.from_numpy((np.arange(self.batch_size) + rng.random()) / self.batch_size * 1000).long()
        return clean, noise, timesteps, prompt_embeds

    def _predict(self, noisy: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        return self.unet(noisy, timesteps, prompt_embeds, return_dict=False)[0]

    def loss(  # type: ignore[override]
        self, clean: Tensor, noise: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> dict[str, Tensor]:
        """Weighted and plain mean squared error of the predicted noise."""
        alpha_prod_t = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = alpha_prod_t.sqrt() * clean + (1 - alpha_prod_t).sqrt() * noise
        error = (self._forward(noisy, timesteps, prompt_embeds).float() - noise).square().mean(dim=(1, 2, 3))
        snr = (alpha_prod_t / (1 - alpha_prod_t)).flatten()
        weight = snr.clamp(max=5) / snr
        return {"loss": (weight * error).mean(), "mse": error.mean()}
