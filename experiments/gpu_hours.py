"""Estimates the GPU hours of the experiments on Stable Diffusion 1.4: ``python -m experiments.gpu_hours``.

Operations are counted on the meta device, without weights. Prints the table of experiments/README.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

#: Operations a second that a GPU is assumed to deliver, as in docs/scale.md.
DELIVERED = 100e12
STEPS = 50
CALLS, IMAGES = 2 * STEPS, 2  # EDICT: two network calls a step, two images
#: Crops of each image that the objective sees where a gradient is wanted; elsewhere it sees the whole image.
CROPS = 16


@dataclass(frozen=True)
class Work:
    """What one pair takes: network calls and decoded images, with and without a gradient."""

    network_calls: int  # as `network_evaluations` counts them (docs/methods.md)
    calls: int
    gradient_calls: int
    images: int
    gradient_images: int
    recomputed: bool = True  # gradient calls are made once more in backward
    guided: bool = True  # prompt and negative prompt in a batch of two

    def flops(self, size: int, clips: tuple[str, ...]) -> int:
        """Operations at ``size`` x ``size`` pixels, with an objective of these CLIPs."""
        call, call_back = count("unet", size // 8, 2 if self.guided else 1)
        image, image_back = count("decoder", size // 8, 1)
        views = [count(name, 0, 1) for name in clips]
        image, with_gradient = image + sum(v for v, _ in views), image + image_back + CROPS * sum(map(sum, views))
        calls = self.calls * call + self.gradient_calls * (call * (1 + self.recomputed) + call_back)
        return calls + self.images * image + self.gradient_images * with_gradient


def optimised(updates: int) -> Work:
    """`doodl` and `sgool_paper`: each update through the whole chain, and the last image."""
    return Work((2 * updates + 1) * CALLS, CALLS, updates * CALLS, IMAGES, updates * IMAGES)


METHODS = {
    "vanilla": Work(CALLS, CALLS, 0, IMAGES, 0),
    # DDIM; each step judges an estimate of the image; the plain image is made beside it, and not counted as calls.
    "clip_guidance": Work(STEPS, STEPS, STEPS, 2, STEPS, recomputed=False),
    "best_of_n": Work(101 * CALLS, 101 * CALLS, 0, 101 * IMAGES, 0),
    "doodl": optimised(50),
    "sgool_paper": optimised(50),
    "doodl, 500 updates": optimised(500),
    # An edit: the photo is inverted first (one more chain), and the empty prompt needs no guidance.
    "doodl, 25 updates": Work(52 * CALLS, 2 * CALLS, 25 * CALLS, 2 * IMAGES, 25 * IMAGES, guided=False),
}
_ALL, _THREE = ("vanilla", "clip_guidance", "best_of_n", "doodl"), ("ViT-B-32", "ViT-L-14", "ViT-g-14")
#: Name, pairs, pixels, methods, the objective's CLIPs. DrawBench has 20 prompts of the category DALL-E, 38 of Reddit;
#: CSP, DrawBench and DailyDallE have 52, 200 and 93. Vocabulary's WS-DAN is left out: small beside the UNet.
EXPERIMENTS: tuple[tuple[str, int, int, tuple[str, ...], tuple[str, ...]], ...] = (
    ("text_guidance", (20 + 38) * 9, 512, _ALL, ("ViT-g-14",)),
    ("prompt_sets", 52 + 200 + 93, 256, (*_ALL, "sgool_paper"), ("ViT-B-32",)),
    ("vocabulary, per 100 pairs", 100, 512, ("vanilla", "doodl"), ()),
    ("personalization, per 10 pairs", 10, 512, ("vanilla", "doodl, 500 updates"), _THREE),
    ("aesthetic, per 100 photos", 100, 512, ("doodl, 25 updates",), ("ViT-L-14",)),
)


@lru_cache
def count(part: str, side: int, batch: int) -> tuple[int, int]:
    """Operations forward, and backward to the input: latents of ``side`` x ``side``, or an image of 224 x 224."""
    start = torch.randn(batch, *((4, side, side) if side else (3, 224, 224)), device="meta", requires_grad=True)
    run = _network(part, batch)
    with FlopCounterMode(display=False) as forward:
        end = run(start)
    with FlopCounterMode(display=False) as backward:
        end.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def _network(part: str, batch: int) -> Callable[[Tensor], Tensor]:
    """Stable Diffusion 1.x in its published configuration (unnamed values are diffusers' own), or a CLIP's tower."""
    with torch.device("meta"):
        if part == "unet":
            unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).requires_grad_(False)
            text, step = torch.randn(batch, 77, 768), torch.zeros((), dtype=torch.long)
            return lambda latents: unet(latents, step, text).sample
        if part == "decoder":
            blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
            vae = AutoencoderKL(**blocks, block_out_channels=(128, 256, 512, 512), layers_per_block=2)
            vae.requires_grad_(False)
            return lambda latents: vae.decode(latents).sample
        return open_clip.create_model(part, device="meta").visual.requires_grad_(False)


def table() -> list[str]:
    """Lines of Markdown: a row per experiment and method, then the experiment's sum."""
    heads = "experiment | pairs | pixels | method | network calls a pair | PFLOP a pair | GPU hours"
    lines = [f"| {heads} |", "|---" * 7 + "|"]
    for name, pairs, size, methods, clips in EXPERIMENTS:
        flops = {method: METHODS[method].flops(size, clips) for method in methods}
        hours = {method: pairs * work / DELIVERED / 3600 for method, work in flops.items()}
        for method, work in flops.items():
            cells = f"{pairs} | {size} | `{method}` | {METHODS[method].network_calls:,} | {work / 1e15:.2f}"
            lines.append(f"| {name} | {cells} | {hours[method]:.2f} |")
        lines.append(f"| **{name}** | {pairs} | {size} | all | | | **{sum(hours.values()):.1f}** |")
    return lines


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # open_clip's, that the towers have no weights
    print("\n".join(table()))
