"""Trains the small TranSalNet of the emoji world: ``python -m experiments.saliency_emoji.train --emoji DIR``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from experiments.emoji_world.augment import augment
from experiments.emoji_world.common import Stage, fit
from experiments.emoji_world.fetch import find_emoji
from experiments.emoji_world.scenes import Painter, training_scene
from experiments.saliency_emoji.scenes import density, painted_scenes
from sgool.config.paths import ASSETS, home_path
from sgool.errors import SgoolError
from sgool.saliency.transalnet import cut_back, fit_into
from sgool.saliency.transalnet_network import ARCHITECTURES, TranSalNet

BACKBONE = "densenet_small"
STEPS = 600


class SaliencyStage(Stage):
    """Cross-entropy, divergence and correlation between the network's map and the blurred masks.

    Training scenes of both halves of the emoji world (or what ``sample(rng)`` gives), distorted as its other networks'
    images are.
    """

    def __init__(
        self,
        painter: Any,
        *,
        batch_size: int,
        vae: torch.nn.Module | None,
        sample: Callable[[np.random.Generator], Any] = training_scene,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.network = TranSalNet(ARCHITECTURES[BACKBONE])
        self.painter, self.batch_size, self.sample = painter, batch_size, sample
        self._vae = (vae,)  # in a tuple: no part of this network

    def batch(self, rng: np.random.Generator) -> tuple:
        """Images (B, 3, H, H) and their densities (B, 1, H, H)."""
        _, images, masks = painted_scenes(self.painter, rng, self.batch_size, self.sample)
        return augment(images, rng, images.shape[-1], self._vae[0], move=0), density(masks)

    def loss(self, images: Tensor, target: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """The three parts and their sum."""
        size = ARCHITECTURES[BACKBONE].input_size
        maps = cut_back(self.network(fit_into(images, size)).float(), tuple(images.shape[-2:]))
        entropy = F.binary_cross_entropy(maps.clamp(1e-6, 1 - 1e-6), target)
        divergence, correlation = _divergence(maps, target), _correlation(maps, target)
        total = entropy + divergence + (1 - correlation)
        return {"loss": total, "entropy": entropy, "divergence": divergence, "correlation": correlation}


def _divergence(maps: Tensor, target: Tensor) -> Tensor:
    predicted, wanted = (x.flatten(1) / x.flatten(1).sum(1, keepdim=True) for x in (maps + 1e-6, target))
    return (wanted * ((wanted + 1e-12).log() - predicted.log())).sum(1).mean()


def _correlation(maps: Tensor, target: Tensor) -> Tensor:
    first, second = (F.normalize(x.flatten(1) - x.flatten(1).mean(1, keepdim=True), dim=1) for x in (maps, target))
    return (first * second).sum(1).mean()


def export(network: torch.nn.Module, file: Path) -> float:
    """Writes the weights as float16 safetensors in TranSalNet's layout; returns the file's size in MiB."""
    state = {name: (x.half() if x.is_floating_point() else x) for name, x in network.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: x.contiguous() for name, x in state.items()}, file)
    return file.stat().st_size / 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one paragraph for what a user can mend."""
    parser = argparse.ArgumentParser(prog="python -m experiments.saliency_emoji.train", description=__doc__)
    parser.add_argument("--emoji", type=home_path, required=True, help="an unpacked emoji-datasource-google")
    parser.add_argument("--work", type=home_path, default=Path("runs/saliency_emoji"), help="checkpoints and logs")
    parser.add_argument("--weights", type=home_path, default=ASSETS / "emoji_world/saliency/transalnet.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--precision", default="bf16-mixed", help="Lightning's name")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    try:
        painter = Painter(find_emoji(arguments.emoji))
        vae = AutoencoderKL.from_pretrained(ASSETS / "emoji_world/vae").float().eval().requires_grad_(False)
        torch.manual_seed(8)  # of the first weights
        settings = {"max_steps": arguments.steps, "lr": 2e-3, "seed": 8, "warmup": 50}
        stage = SaliencyStage(painter, batch_size=16, vae=vae, **settings)
        fit(stage, arguments.work, precision=arguments.precision, ema=0.99)
        logging.info("%s: %.2f MiB", arguments.weights, export(stage.network, arguments.weights))
    except SgoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
