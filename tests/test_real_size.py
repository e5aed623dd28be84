"""One update at Stable Diffusion 1.4's real size, with random weights: does the real thing fit and flow?"""

from __future__ import annotations

import resource
import time

import lightning as L
import open_clip
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sgool import Chain, LatentPairModule, Objective, PromptSeed, TextAlignment, default_callbacks
from sgool.callbacks import Trajectory
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings
from tests.tiny import sd_scheduler


class _Tokenizer:
    """open_clip's own CLIP vocabulary, which ships with it, behind the two calls that are needed of transformers'."""

    model_max_length = 77

    def __init__(self) -> None:
        self._tokenizer = open_clip.get_tokenizer("ViT-B-32")

    def __call__(self, text: str | list[str], **_: object) -> object:
        ids = self._tokenizer([text] if isinstance(text, str) else text)
        rows = ids[0][: int(ids[0].argmax()) + 1].tolist() if isinstance(text, str) else ids
        return type("Tokens", (), {"input_ids": rows})


def stable_diffusion_14() -> StableDiffusion:
    """The networks of SD 1.4 (its published configuration), untrained."""
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )
    for network in (unet, vae, text_encoder):
        network.requires_grad_(False).eval()
    return StableDiffusion(vae, unet, text_encoder, _Tokenizer(), sd_scheduler(), "sd14-random")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_update_at_the_size_of_stable_diffusion(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    models = stable_diffusion_14()
    parameters = sum(p.numel() for p in models.unet.parameters())
    assert parameters == 859_520_964  # the published UNet's
    guide = ClipTower(open_clip.create_model("ViT-B-32"), open_clip.get_tokenizer("ViT-B-32"), name="ViT-B-32")
    objective = Objective({"text": TextAlignment(guide)}, {"text": 1.0}, CropSettings(num=4))
    module = LatentPairModule(
        Chain(models, num_inference_steps=2, height=256, width=256),
        objective,
        num_optimization_steps=1,
        pairs=[PromptSeed("a photo of an astronaut riding a horse")],
    )
    assert module.latents.shape == (1, 1, 4, 32, 32)
    before = module.latents.detach().clone()
    callbacks = default_callbacks(gradient_rms=0.01, grad_clip_value=None)
    built = time.perf_counter()
    L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)
    trajectory = next(c for c in callbacks if isinstance(c, Trajectory))
    assert len(trajectory.history[0]) == 2 and not module.failures
    assert not torch.equal(module.latents.detach(), before)
    torch.testing.assert_close(module.latents.detach().norm(), before.norm())
    with capsys.disabled():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"\nSD 1.4 size, 256x256, 2 steps, 1 update: built {built - started:.0f} s, ", end="")
        print(f"fitted {time.perf_counter() - built:.0f} s, peak {peak:.1f} GiB")
