"""SDXL-Turbo and FLUX.1 schnell at real size with random weights: seconds, memory and bf16 gradients of an update.

python benchmarks/real_size.py [MODEL ...] [--device cuda] [--repeats N] [--no-float32] [--tiny]

No weights are downloaded: networks are made on the device, and prompts are random embeddings of the right shape. An
update is: latents, denoising steps, decoder, mean square of the pixels, and the gradient back to the latents. The
gradient in bfloat16 is compared with that of the same weights in float32, which for FLUX takes a card of 80 GB.
``--tiny`` takes small networks of the same classes: it tries the script in seconds on any machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion import Chain
from sgool.models.family import Conditioning
from sgool.models.live import LiveBytes

_TINY_VAE: dict[str, Any] = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
_VAE: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 1024}

#: Options of the chain, in an order in which blocks stay switched on once they are.
ENGINES: dict[str, dict[str, Any]] = {
    "direct": {"engine": "direct"},
    "checkpoint": {"engine": "checkpoint"},
    "direct, blocks": {"engine": "direct", "block_checkpointing": True},
    "checkpoint, blocks": {"engine": "checkpoint", "block_checkpointing": True},
}


@dataclass(frozen=True)
class Model:
    """One model of the table.

    Attributes:
        make: Makes its pipeline without text encoders, of small networks if it is told so.
        conditioning: Makes embeddings for one prompt.
        steps: Denoising steps, as the model is published.
        size: Side of its images in pixels.
    """

    make: Callable[[bool], Any]
    conditioning: Callable[[Any], Conditioning]
    steps: int
    size: int


def _vae(tiny: bool, **options: Any) -> Any:
    from diffusers import AutoencoderKL

    sizes = _TINY_VAE if tiny else _VAE
    kinds = len(sizes["block_out_channels"])
    return AutoencoderKL(
        **sizes,
        down_block_types=("DownEncoderBlock2D",) * kinds,
        up_block_types=("UpDecoderBlock2D",) * kinds,
        **options,
    )


def _sdxl_turbo(tiny: bool) -> Any:
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    sizes: dict[str, Any] = {
        "sample_size": 64, "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 1280,
    }  # fmt: skip
    if tiny:
        sizes |= {
            "sample_size": 16, "block_out_channels": (8, 16, 16), "transformer_layers_per_block": (1, 1, 1),
            "attention_head_dim": (2, 4, 4), "cross_attention_dim": 32, "norm_num_groups": 4,
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 16,
        }  # fmt: skip
    unet = UNet2DConditionModel(
        **sizes,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
    )
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    with torch.device("cpu"):  # schedulers compute their tables with numpy
        scheduler = EulerAncestralDiscreteScheduler(**betas, timestep_spacing="trailing")
    vae = _vae(tiny, latent_channels=4, scaling_factor=0.13025)
    texts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return StableDiffusionXLPipeline(vae=vae, unet=unet, scheduler=scheduler, **texts)


def _sdxl_conditioning(config: Any) -> Conditioning:
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    side = float(config.sample_size * 8)
    added = {"text_embeds": torch.randn(1, pooled), "time_ids": torch.tensor([[side, side, 0.0, 0.0, side, side]])}
    return {"encoder_hidden_states": torch.randn(1, 77, config.cross_attention_dim), "added_cond_kwargs": added}


def _flux_schnell(tiny: bool) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    sizes: dict[str, Any] = {}  # the class's defaults are FLUX's
    if tiny:
        sizes = {
            "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": 16, "pooled_projection_dim": 16,
            "axes_dims_rope": (4, 4, 8),
        }  # fmt: skip
    options = {"shift_factor": 0.1159, "scaling_factor": 0.3611, "use_quant_conv": False, "use_post_quant_conv": False}
    vae = _vae(tiny, latent_channels=4 if tiny else 16, **options)
    with torch.device("cpu"):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, base_shift=0.5, max_shift=1.15)
    texts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    transformer = FluxTransformer2DModel(**sizes, guidance_embeds=False)
    return FluxPipeline(vae=vae, transformer=transformer, scheduler=scheduler, **texts)


def _flux_conditioning(config: Any) -> Conditioning:
    embeds = torch.randn(1, 256, config.joint_attention_dim)
    return {"encoder_hidden_states": embeds, "pooled_projections": torch.randn(1, config.pooled_projection_dim)}


MODELS = {
    "sdxl_turbo": Model(_sdxl_turbo, _sdxl_conditioning, 1, 512),
    "flux_schnell": Model(_flux_schnell, _flux_conditioning, 4, 1024),
}


def pipeline_of(model: Model, tiny: bool, device: str) -> Any:
    """The pipeline with random weights in bfloat16, made on the device at once."""
    default = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            return model.make(tiny)
    finally:
        torch.set_default_dtype(default)


def chain_of(model: Model, pipeline: Any, tiny: bool, **options: Any) -> Chain:
    """The chain for one random prompt, the same in all dtypes."""
    side = 32 if tiny else model.size
    chain = Chain.from_pipeline(
        pipeline,
        sampler="native",
        num_inference_steps=model.steps,
        guidance_scale=0.0,
        height=side,
        width=side,
        **options,
    )
    torch.manual_seed(1)
    prompt = _cast(model.conditioning(chain.family.config), chain)  # type: ignore[attr-defined]
    return chain.with_conditioning(prompt)


def _cast(conditioning: Conditioning, chain: Chain) -> Conditioning:
    if isinstance(conditioning, Mapping):
        return {name: _cast(part, chain) for name, part in conditioning.items()}
    return conditioning.to(device=chain.device, dtype=chain.dtype)


def update(chain: Chain) -> Tensor:
    """The gradient of one update with respect to the first latents and the noises, on the CPU."""
    generator = torch.Generator().manual_seed(2)
    shape = (1 + len(chain.noise_draws), 1, *chain.latent_shape())
    leaf = torch.randn(shape, generator=generator).to(chain.device).requires_grad_(True)
    chain(leaf).images.float().square().mean().backward()
    assert leaf.grad is not None
    return leaf.grad.cpu()


def measured(chain: Chain, repeats: int) -> tuple[float, float]:
    """Seconds of an update, the least of the repeats after one that warms up, and its peak memory in GiB."""
    on_gpu = chain.device.type == "cuda"
    update(chain)  # the first one allocates, and looks for gradients that are cut
    seconds = float("inf")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats):
        start = time.perf_counter()
        update(chain)  # ends with a copy to the CPU, which waits for the device
        seconds = min(seconds, time.perf_counter() - start)
    if on_gpu:
        return seconds, torch.cuda.max_memory_allocated() / 2**30
    networks = (*chain.network.networks, chain.family.vae)  # type: ignore[attr-defined]
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    with LiveBytes(weights) as live:
        update(chain)
    return seconds, (live.peak + sum(weight.nbytes for weight in weights)) / 2**30


def rows(name: str, arguments: argparse.Namespace) -> Iterator[str]:
    """Measures a model and yields the lines of its table."""
    model = MODELS[name]
    pipeline = pipeline_of(model, arguments.tiny, arguments.device)
    gradient = None
    yield f"{name}, {model.steps} step(s), {arguments.device}, bfloat16, random weights"
    yield f"{'engine':<22}{'s an update':>12}{'peak GiB':>10}"
    for engine, options in ENGINES.items():
        try:
            chain = chain_of(model, pipeline, arguments.tiny, **options)
            seconds, peak = measured(chain, arguments.repeats)
            gradient = update(chain)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield f"{engine:<22}{'out of memory':>22}"
        else:
            yield f"{engine:<22}{seconds:>12.3f}{peak:>10.3f}"
    if gradient is not None and not arguments.no_float32:
        yield compared(model, pipeline, gradient, arguments.tiny)


def compared(model: Model, pipeline: Any, gradient: Tensor, tiny: bool) -> str:
    """Compares a gradient in bfloat16 with that of the same weights in float32."""
    try:
        for part in (pipeline.vae, getattr(pipeline, "unet", None) or pipeline.transformer):
            part.float()
        exact = update(chain_of(model, pipeline, tiny, **ENGINES["checkpoint, blocks"])).flatten()
    except torch.cuda.OutOfMemoryError:
        return "gradient in float32: out of memory"
    rough = gradient.flatten()
    cosine = float(torch.nn.functional.cosine_similarity(rough, exact, dim=0))
    return f"gradient, bfloat16 against float32: cosine {cosine:.4f}, relative error {_error(rough, exact):.3f}"


def _error(rough: Tensor, exact: Tensor) -> float:
    return float((rough - exact).norm() / exact.norm())


def main() -> None:
    """Prints a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; by default all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-float32", action="store_true", help="leave the comparison with float32 out")
    parser.add_argument("--tiny", action="store_true", help="small networks of the same classes")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.models if name not in MODELS]:
        parser.error(f"MODEL: expected {' or '.join(MODELS)}, got {', '.join(unknown)}")
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device: real size needs a GPU (--device cuda); --tiny tries the script on a CPU")
    for name in arguments.models or MODELS:
        for line in rows(name, arguments):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
