"""The flow-matching transformer of the emoji scenes: a small `SD3Transformer2DModel` on 16x16x16 latents.

Of the public classes that go with `FlowMatchEulerDiscreteScheduler`, Stable Diffusion 3's takes CLIP text encoders,
which this world has: its pipeline is plain `StableDiffusion3Pipeline` without the optional T5. Sana and FLUX need a
Gemma or T5 of their own, and `StableDiffusionPipeline` (a UNet with flow targets) asks schedulers for
`scale_model_input`, which flow Euler has not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from experiments.emoji_scenes.captions import caption
from experiments.emoji_scenes.scenes import Scene
from experiments.emoji_world.common import Stage

#: Zeros that the pipeline appends to the prompt in the place of T5's tokens, by default.
T5_TOKENS = 256
#: Every so many steps the batch has them, so that the network is used to their presence and their absence, at the
#: cost of the latter: `max_sequence_length=0` saves three quarters of the time.
T5_EVERY = 8


def new_transformer(text_width: int = 128, pooled_width: int = 128) -> SD3Transformer2DModel:
    """An untrained transformer of 8 layers, 256 wide, with 64 image tokens.

    Args:
        text_width: Of one of the two text encoders, which are the same one twice.
        pooled_width: Of its projection.
    """
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=8,
        attention_head_dim=32,
        num_attention_heads=8,
        caption_projection_dim=256,
        joint_attention_dim=2 * text_width,
        pooled_projection_dim=2 * pooled_width,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Straight paths from noise to image, without a shift: the latents are small."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


@torch.no_grad()
def encode_prompts(
    text_encoder: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Prompt embeddings (B, 32, 2 W) and pooled ones (B, 2 P), as `StableDiffusion3Pipeline` makes them of one encoder.

    Its second text encoder is the first once more.
    """
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    output = text_encoder(tokens, output_hidden_states=True)
    hidden, pooled = output.hidden_states[-2].float(), output.text_embeds.float()
    return torch.cat([hidden, hidden], dim=-1), torch.cat([pooled, pooled], dim=-1)


class FlowStage(Stage):
    """Flow matching (Lipman et al. 2023) on straight paths, times from a logit-normal (Esser et al. 2024)."""

    def __init__(
        self,
        scenes: list[Scene],
        latents: Tensor,
        text_encoder: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        *,
        transformer: SD3Transformer2DModel | None = None,
        batch_size: int = 32,
        compile: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.transformer = transformer or new_transformer()
        self._frozen = (text_encoder, scenes, latents)  # in a tuple: no part of this network
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self._forward = torch.compile(self._predict) if compile else self._predict

    def batch(self, rng: np.random.Generator) -> tuple:
        """Clean latents, noise, times in (0, 1), prompt embeddings and pooled ones; a tenth has no caption."""
        text_encoder, scenes, latents = self._frozen
        index = rng.integers(len(scenes), size=self.batch_size)
        texts = ["" if rng.random() < 0.1 else caption(scenes[i], rng).text for i in index]
        embeds, pooled = encode_prompts(text_encoder, self.tokenizer, texts)
        if self.step % T5_EVERY == 0:
            embeds = F.pad(embeds, (0, 0, 0, T5_TOKENS))
        clean = latents[torch.from_numpy(index)].float()
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        times = torch.from_numpy(rng.standard_normal(self.batch_size, dtype=np.float32)).sigmoid()
        return clean, noise, times, embeds, pooled

    def _predict(self, noisy: Tensor, timesteps: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        return self.transformer(noisy, embeds, pooled, timesteps, return_dict=False)[0]

    def loss(  # type: ignore[override]
        self, clean: Tensor, noise: Tensor, times: Tensor, embeds: Tensor, pooled: Tensor
    ) -> dict[str, Tensor]:
        """Mean squared error of the velocity noise - clean."""
        part = times.view(-1, 1, 1, 1)
        velocity = self._forward((1 - part) * clean + part * noise, 1000 * times, embeds, pooled).float()
        return {"loss": F.mse_loss(velocity, noise - clean)}
