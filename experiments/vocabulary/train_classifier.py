"""Trains the emoji world's classifier of nouns: ``python -m experiments.vocabulary.train_classifier --emoji DIR``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from experiments.emoji_world import words
from experiments.emoji_world.augment import augment
from experiments.emoji_world.captions import article, describe
from experiments.emoji_world.common import Stage, fit, images_to_tensor, save_atomically
from experiments.emoji_world.fetch import find_emoji
from experiments.emoji_world.scenes import SIZE, Painter, Scene, training_scene
from sgool.config.paths import ASSETS, home_path
from sgool.errors import SgoolError

NOUNS = list(words.NOUNS)
#: What `sgool.models.classifier` reads: a ResNet of timm, narrower than the published ones.
CONFIG = {
    "architecture": "resnet18",
    "model_args": {"channels": [32, 64, 96, 128], "stem_width": 16, "stem_type": "deep"},
    "input_size": [3, SIZE, SIZE],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "crop_pct": 1.0,  # the network was trained on whole images
    "labels": NOUNS,
}
STEPS = 900
BATCH = 48
#: Euclidean length of the adversarial change of an image (3, 64, 64) in [0, 1].
RADIUS = 1.5
#: Of `words.LAYOUTS`: half of the scenes have one object, one in six has two of different kinds.
WEIGHTS = (6.0, 1.0, 1.0, 1.0, 1.5, 1.5)


def new_network() -> torch.nn.Module:
    """An untrained classifier."""
    return timm.create_model(CONFIG["architecture"], pretrained=False, num_classes=len(NOUNS), **CONFIG["model_args"])


class ClassifierStage(Stage):
    """Cross-entropy on painted and generated images, half of each batch changed by one adversarial step.

    An image with two kinds of objects has half a label for each. Adversarial training is what makes the gradient with
    respect to the pixels follow shapes: without it, guidance finds specks that the classifier alone believes in.
    """

    def __init__(
        self,
        painter: Painter,
        *,
        generated: tuple[Tensor, Tensor] | None,
        batch_size: int = BATCH,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.network = new_network().to(memory_format=torch.channels_last)
        self.painter, self.batch_size = painter, batch_size
        self._generated = generated

    def batch(self, rng: np.random.Generator) -> tuple:
        """Views (B, 3, 64, 64) and label distributions (B, nouns); a third of the views are of generated images."""
        generated = self._generated
        number = self.batch_size // 3 if generated is not None else 0
        scenes = [training_scene(rng, half=0, weights=WEIGHTS) for _ in range(self.batch_size - number)]
        images = images_to_tensor([self.painter.paint(scene, rng).image for scene in scenes])
        targets = torch.stack([label(scene) for scene in scenes])
        images = augment(images, rng, SIZE, move=0)
        # A noun is its shape, in whatever colour: every third image has exchanged colour channels.
        for i in range(0, len(images), 3):
            images[i] = images[i, torch.from_numpy(rng.permutation(3))]
        if generated is not None and number:
            index = torch.from_numpy(rng.integers(len(generated[0]), size=number))
            images = torch.cat([images, generated[0][index].float() / 255])
            targets = torch.cat([targets, F.one_hot(generated[1][index], len(NOUNS)).float()])
        return random_views(images, rng), targets

    def loss(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Cross-entropy, and the accuracy on views of one kind of object."""
        half = len(images) // 2
        # Every other image: painted and generated ones alike.
        attacked = self.attack(images[::2][:half], targets[::2][:half])
        images = torch.cat([attacked, images[1::2]])
        targets = torch.cat([targets[::2][:half], targets[1::2]])
        logits = self.network((images * 2 - 1).contiguous(memory_format=torch.channels_last)).float()
        right = (logits.argmax(1) == targets.argmax(1)).float()
        return {
            "loss": F.cross_entropy(logits, targets, label_smoothing=0.05),
            "attacked_accuracy": right[:half].mean(),
            "accuracy": right[half:].mean(),
        }

    @torch.enable_grad()
    def attack(self, images: Tensor, targets: Tensor, radius: float = RADIUS) -> Tensor:
        """The images after one step of length ``radius`` up the loss."""
        inputs = images.clone().requires_grad_(True)
        loss = F.cross_entropy(self.network(inputs * 2 - 1).float(), targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
        direction = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        return (images + radius * direction).clamp(0, 1).detach()


def label(scene: Scene) -> Tensor:
    """(nouns,): 1 for the scene's noun, a half each for two."""
    target = torch.zeros(len(NOUNS))
    for thing in scene.objects:
        target[NOUNS.index(thing.noun)] += 1 / len(scene.objects)
    return target


def random_views(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Squares of the images as the objectives' crops draw them (half: the whole image), mirrored by chance."""
    number = len(images)
    side = 0.45 + 0.55 * rng.uniform(0, 1, number) ** 0.3
    side[::2] = 1.0
    theta = np.zeros((number, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = side * rng.choice([-1, 1], number), side
    theta[:, :, 2] = rng.uniform(-1, 1, (number, 2)) * (1 - side)[:, None]
    grid = F.affine_grid(torch.from_numpy(theta), [number, 3, SIZE, SIZE], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def generate(number: int, file: Path, batch: int = 60) -> tuple[Tensor, Tensor]:
    """Vanilla samples of the embedded model for prompts with one object, and their nouns; cached in ``file``.

    Returns:
        uint8 images (N, 3, 64, 64) and the index of each prompt's noun (N,).
    """
    if file.is_file():
        images, nouns = torch.load(file, weights_only=True)
        return images, nouns
    pipeline = StableDiffusionPipeline.from_pretrained(ASSETS / "emoji_world")
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(5)
    pieces, nouns = [], []
    for start in range(0, number, batch):
        scenes = [training_scene(rng, half=0, weights=(1, 0, 0, 0, 0, 0)) for _ in range(min(batch, number - start))]
        prompts = [f"{describe(s.objects[0])} on {article(s.background)} background" for s in scenes]
        generator = torch.Generator().manual_seed(start)
        with torch.autocast("cpu", torch.bfloat16):
            images = pipeline(
                prompts, num_inference_steps=12, guidance_scale=4, generator=generator, output_type="pt"
            ).images
        pieces.append((images.float().clamp(0, 1) * 255).round().to(torch.uint8))
        nouns += [NOUNS.index(s.objects[0].noun) for s in scenes]
        logging.info("%d of %d images generated", start + len(scenes), number)
    result = torch.cat(pieces), torch.tensor(nouns)
    save_atomically(result, file)
    return result


def export(network: torch.nn.Module, folder: Path) -> float:
    """Writes config.json and float16 weights; returns the weights' size in MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="utf-8")
    state = {name: (x.half() if x.is_floating_point() else x).contiguous() for name, x in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return (folder / "model.safetensors").stat().st_size / 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one paragraph for what a user can mend."""
    parser = argparse.ArgumentParser(prog="python -m experiments.vocabulary.train_classifier", description=__doc__)
    parser.add_argument("--emoji", type=home_path, required=True, help="an unpacked emoji-datasource-google")
    parser.add_argument(
        "--work", type=home_path, default=Path("runs/vocabulary_classifier"), help="checkpoints and logs"
    )
    parser.add_argument("--out", type=home_path, default=ASSETS / "emoji_world/classifier")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--generated", type=int, default=600, help="images of the embedded model to train on; 0: none")
    parser.add_argument("--precision", default="bf16-mixed", help="Lightning's name")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    try:
        painter = Painter(find_emoji(arguments.emoji))
    except SgoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    generated = generate(arguments.generated, arguments.work / "generated.pt") if arguments.generated else None
    torch.manual_seed(9)  # of the first weights
    settings = {"max_steps": arguments.steps, "lr": 2e-3, "seed": 9, "warmup": 50}
    stage = ClassifierStage(painter, generated=generated, **settings)
    fit(stage, arguments.work, precision=arguments.precision, ema=0.99)
    logging.info("%s: %.2f MiB", arguments.out, export(stage.network, arguments.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
