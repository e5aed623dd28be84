"""Tiny real pipelines of every family, of diffusers' own classes with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from tests.tiny import CONTEXT_LENGTH, _byte_pair_tokenizer, _tiny_networks, _words, sd_scheduler

#: Noise schedule of Stable Diffusion, for any class of schedulers.
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def tiny_family(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    builders: dict[str, Callable[[], Any]] | None = None,
) -> Any:
    """A pipeline by its name in `BUILDERS`, or others; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = (builders or BUILDERS)[name]()
        _enliven(getattr(pipeline, "unet", None) or pipeline.transformer)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
            if dtype == torch.float64:
                part.double()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def _enliven(network: nn.Module) -> None:
    """A fresh network is zero in places, and its output hardly depends on the latents; no trained one is so."""
    for name, parameter in network.named_parameters():
        if "norm" not in name and float(parameter.abs().max()) < 1e-6:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    for name, module in network.named_modules():
        if name in ("proj_out", "conv_out"):
            module.weight *= 4 if name == "conv_out" else 10  # type: ignore[operator]


def clip_tokenizer() -> Any:
    """Byte-pair encoding of the tests' words."""
    with TemporaryDirectory() as folder:
        return _byte_pair_tokenizer(Path(folder))


def word_tokenizer(end: str = "</s>", begin: str = "") -> Any:
    """A token for each of the tests' words and each letter, in place of T5's or Gemma's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", end, "<unk>", *([begin] if begin else [])]
    words = [*special, *"abcdefghijklmnopqrstuvwxyz", *_words()]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = f"{begin} $A" if begin else f"$A {end}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[(word, vocabulary[word]) for word in special if word in frame]
    )
    names = {"pad_token": "<pad>", "eos_token": end, "unk_token": "<unk>", **({"bos_token": begin} if begin else {})}
    inputs = ["input_ids", "attention_mask"]  # as T5's tokenizers have
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, model_input_names=inputs, **names)


def clip_encoder(tokenizer: Any, *, projected: bool = True) -> Any:
    """A CLIP text encoder, with its projection or without."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        projection_dim=16,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_encoder(tokenizer: Any, width: int = 16) -> Any:
    """T5's encoder."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        relative_attention_num_buckets=8, pad_token_id=0, eos_token_id=1, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config)


def autoencoder(**options: Any) -> Any:
    """An AutoencoderKL of factor 2 and 4 channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, sample_size=16, **options,
    )  # fmt: skip


def _plain(**options: Any) -> Any:
    return autoencoder(use_quant_conv=False, use_post_quant_conv=False, **options)


def sd() -> Any:
    """Stable Diffusion 1.x."""
    from diffusers import StableDiffusionPipeline

    networks = _tiny_networks(clip_tokenizer())
    networks["vae"] = autoencoder()
    more: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**networks, scheduler=sd_scheduler(), **more)


def sdxl(time_cond_proj_dim: int | None = None) -> Any:
    """SDXL; with a width for the embedded guidance scale, its LCM."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    first, second = clip_tokenizer(), clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, transformer_layers_per_block=(1, 1),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16,
        time_cond_proj_dim=time_cond_proj_dim,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=clip_encoder(first, projected=False),
        text_encoder_2=clip_encoder(second),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
    )


def latent_consistency() -> Any:
    """A UNet that is told the guidance scale, with LCM's noise at each step."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2, time_cond_proj_dim=16,
    )  # fmt: skip
    more: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return LatentConsistencyModelPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(tokenizer, projected=False),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=LCMScheduler(**BETAS),
        **more,
    )


def sd3(t5: bool = True, **scheduler: Any) -> Any:
    """Stable Diffusion 3; without T5 it has zeros in the place of its tokens."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    first, second, third = clip_tokenizer(), clip_tokenizer(), word_tokenizer() if t5 else None
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=32,
        pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
        vae=_plain(shift_factor=0.0609, scaling_factor=1.5305),
        text_encoder=clip_encoder(first),
        tokenizer=first,
        text_encoder_2=clip_encoder(second),
        tokenizer_2=second,
        text_encoder_3=t5_encoder(third, 32) if t5 else None,
        tokenizer_3=third,
    )


def flux(dev: bool = True) -> Any:
    """FLUX.1 dev or schnell."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    first, second = clip_tokenizer(), word_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=dev,
    )  # fmt: skip
    shifts: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": True} if dev else {"shift": 1.0}
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**shifts, base_shift=0.5, max_shift=1.15),
        vae=_plain(shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=clip_encoder(first, projected=False),
        tokenizer=first,
        text_encoder_2=t5_encoder(second),
        tokenizer_2=second,
    )


def pixart(kind: str = "alpha") -> Any:
    """PixArt-alpha of 1024 pixels (which is told the size), PixArt-Sigma, or PixArt-alpha's DMD."""
    from diffusers import (
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    tokenizer = word_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=128 if kind == "alpha" else 8, num_layers=2, patch_size=2, attention_head_dim=8,
        num_attention_heads=3, caption_channels=16, in_channels=4, cross_attention_dim=24, out_channels=8,
        num_embeds_ada_norm=1000, use_additional_conditions=kind == "alpha",
    )  # fmt: skip
    linear: dict[str, Any] = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    dmd = DDPMScheduler(**linear, clip_sample=False)
    return (PixArtSigmaPipeline if kind == "sigma" else PixArtAlphaPipeline)(
        transformer=transformer,
        scheduler=dmd if kind == "dmd" else DPMSolverMultistepScheduler(**linear),
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
    )


def sana(sprint: bool = False) -> Any:
    """Sana, with DPM-Solver++ on a flow as it is published, or Sana-Sprint."""
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaPipeline,
        SanaSprintPipeline,
        SanaTransformer2DModel,
        SCMScheduler,
    )
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = word_tokenizer("<eos>", "<bos>")
    more: dict[str, Any] = {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True} if sprint else {}
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=16,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=8,
        sample_size=8, **more,
    )  # fmt: skip
    blocks = ("ResBlock", "EfficientViTBlock")
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        downsample_block_type="conv", upsample_block_type="interpolate", decoder_norm_types="rms_norm",
        decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    gemma = Gemma2Config(
        head_dim=16, hidden_size=8, intermediate_size=64, max_position_embeddings=512, num_attention_heads=2,
        num_hidden_layers=1, num_key_value_heads=2, vocab_size=len(tokenizer), attn_implementation="eager",
    )  # fmt: skip
    flow: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler = SCMScheduler() if sprint else DPMSolverMultistepScheduler(**flow)
    return (SanaSprintPipeline if sprint else SanaPipeline)(
        tokenizer=tokenizer, text_encoder=Gemma2Model(gemma), vae=vae, transformer=transformer, scheduler=scheduler
    )


def wan() -> Any:
    """Wan 2.1, with UniPC on a flow as it is published."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    tokenizer = word_tokenizer()
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=16, freq_dim=256, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    flow: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return WanPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=UniPCMultistepScheduler(**flow),
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "sd": sd,
    "sdxl": sdxl,
    "sdxl_lcm": lambda: sdxl(16),
    "lcm": latent_consistency,
    "sd3": sd3,
    "sd3_without_t5": lambda: sd3(False),
    "sd3_shifted": lambda: sd3(use_dynamic_shifting=True),
    "flux_dev": flux,
    "flux_schnell": lambda: flux(False),
    "pixart_alpha": pixart,
    "pixart_sigma": lambda: pixart("sigma"),
    "pixart_dmd": lambda: pixart("dmd"),
    "sana": sana,
    "sana_sprint": lambda: sana(True),
    "wan": wan,
}
