"""Fits the embedded aesthetic heads and measures them: ``python -m experiments.aesthetic.heads --emoji DIR``.

A head is one linear layer on a CLIP's embeddings, in the layout of LAION's first predictor, that tells `rating` from
the embedding. Writes ``guide.safetensors`` and ``judge.safetensors``, and their quality on held-out images to
``heads.csv``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.aesthetic.rating import CORRELATION, colourfulness, contrast, rating
from experiments.emoji_world.augment import augment
from experiments.emoji_world.captions import caption
from experiments.emoji_world.common import save_atomically, scenes_batch
from experiments.emoji_world.fetch import find_emoji
from experiments.emoji_world.scenes import SIZE, Painter, Scene, held_out_scene, training_scene
from experiments.vocabulary.train_classifier import random_views
from sgool.config.paths import ASSETS, home_path
from sgool.models.aesthetic import load_aesthetic
from sgool.models.clip import ClipTower, load_clip

FOLDER = ASSETS / "emoji_world/aesthetic"
#: CLIP -> the half of the training scenes that it and its head know.
HALVES = {"guide": 0, "judge": 1}
BATCH = 120
#: Of the ridge. At 1e-6 the head predicts a little better (R^2 0.718 instead of 0.697 on views left out), with weights
#: three times as long, and following its gradient raises the formula's rating less: by 0.47 instead of 0.72 on the
#: images of kind "tuned" after 20 steps in the autoencoder's latents.
PENALTY = 1e-4


def vary(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Every image with another saturation, contrast and brightness, drawn at random.

    Without it a head could rate what is shown instead of how: each scene has one rating, as painted.
    """
    number = len(images)

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (number, 1, 1, 1)).astype(np.float32))

    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    images = grey + draw(0, 2) * (images - grey)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return (middle + draw(0.4, 1.6) * (images - middle) + draw(-0.12, 0.12)).clamp(0, 1)


def training_views(
    painter: Painter, vae: nn.Module, generated: Tensor, half: int, number: int, rng: np.random.Generator
) -> Iterator[Tensor]:
    """Batches of views (B, 3, 64, 64): painted scenes of one half and, one in five, samples of the embedded model.

    Two of three are varied; blur, noise, the autoencoder's distortions and crops as the objective draws them, for the
    painted and the generated alike (half of the views are whole images).
    """
    for _ in range(0, number, BATCH):
        own = BATCH // 5
        _, painted = scenes_batch(painter, rng, BATCH - own, lambda r: training_scene(r, half=half))
        index = torch.from_numpy(rng.integers(len(generated), size=own))
        images = torch.cat([painted, generated[index].float() / 255])[torch.from_numpy(rng.permutation(BATCH))]
        images[::3] = vary(images[::3], rng)
        images[1::3] = vary(images[1::3], rng)
        yield random_views(augment(images, rng, SIZE, vae, move=0), rng)


@torch.no_grad()
def embed(clip: ClipTower, views: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) and ratings (N,) of batches of views, in float64."""
    pairs = [(clip.encode_image(batch).double(), rating(batch.double())) for batch in views]
    return torch.cat([features for features, _ in pairs]), torch.cat([ratings for _, ratings in pairs])


def ridge(features: Tensor, ratings: Tensor, penalty: float = PENALTY) -> tuple[Tensor, Tensor]:
    """Weights (D,) and bias of the linear layer with the least mean squared error plus ``penalty`` times its square."""
    mean, middle = features.mean(0), ratings.mean()
    centred = features - mean
    gram = centred.T @ centred / len(features) + penalty * torch.eye(features.shape[1], dtype=features.dtype)
    weight = torch.linalg.solve(gram, centred.T @ (ratings - middle) / len(features))
    return weight, middle - mean @ weight


def export(weight: Tensor, bias: Tensor, file: Path) -> None:
    """A head in the layout of LAION's ``sa_0_4_vit_*_linear.pth``, as safetensors."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": weight.float()[None].contiguous(), "bias": bias.float()[None].contiguous()}, file)


def samples(scenes: Sequence[Scene], file: Path, seed: int, batch: int = 60) -> Tensor:
    """Vanilla samples of the embedded model for captions of scenes, uint8 (N, 3, 64, 64); cached in ``file``."""
    if file.is_file():
        return torch.load(file, weights_only=True)
    pipeline = StableDiffusionPipeline.from_pretrained(ASSETS / "emoji_world")
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(seed)
    prompts = [caption(scene, rng, background=1.0).text for scene in scenes]
    pieces = []
    for start in range(0, len(prompts), batch):
        with torch.autocast("cpu", torch.bfloat16):
            images = pipeline(
                prompts[start : start + batch],
                num_inference_steps=12,
                guidance_scale=4,
                generator=torch.Generator().manual_seed(1000 * seed + start),
                output_type="pt",
            ).images
        pieces.append((images.float().clamp(0, 1) * 255).round().to(torch.uint8))
        logging.info("%s: %d of %d images", file.stem, start + len(images), len(prompts))
    result = torch.cat(pieces)
    save_atomically(result, file)
    return result


def test_sets(painter: Painter, vae: nn.Module, work: Path, number: int = 600) -> dict[str, Tensor]:
    """Images of scenes that no training saw, as painted and in other states; name -> (N, 3, 64, 64)."""
    rng = np.random.default_rng(31)
    scenes, painted = scenes_batch(painter, rng, number, held_out_scene)
    with torch.no_grad():
        rebuilt = vae(painted * 2 - 1).sample / 2 + 0.5
    return {
        "as painted": painted,
        "through the autoencoder": rebuilt.clamp(0, 1),
        "crops as in the objective": random_views(painted, rng),
        "other saturation, contrast, brightness": vary(painted, rng),
        "samples of the embedded model": samples(scenes[:120], work / "held_out.pt", 33).float() / 255,
    }


@torch.no_grad()
def quality(name: str, sets: dict[str, Tensor]) -> Iterator[dict[str, str | float]]:
    """How well a shipped head tells the formula's rating, per set; and how it tells changes of one scene."""
    predictor = load_aesthetic(load_clip(f"emoji_world/{name}"), f"emoji_world/aesthetic/{name}.safetensors")
    told = {kind: _predict(predictor, images) for kind, images in sets.items()}
    true = {kind: rating(images.double()).numpy() for kind, images in sets.items()}
    for kind in sets:
        yield _row(name, kind, told[kind], true[kind])
    base, *_, varied, _ = sets
    yield _row(name, "difference of one scene's two states", told[varied] - told[base], true[varied] - true[base])


def _predict(predictor: nn.Module, images: Tensor) -> np.ndarray:
    return torch.cat([predictor(part, part.new_zeros(len(part), 0)) for part in images.split(BATCH)]).double().numpy()


def _row(name: str, kind: str, told: np.ndarray, true: np.ndarray) -> dict[str, str | float]:
    """Pearson's r with Fisher's 95 % interval, R^2 (1 - squared errors / squared deviations), mean absolute error."""
    r = float(np.corrcoef(told, true)[0, 1])
    half = 1.959963984540054 / np.sqrt(len(true) - 3)
    low, high = np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)
    r2 = 1 - float(((told - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
    numbers = {"r": r, "low": low, "high": high, "r2": r2, "mean_error": float(np.abs(told - true).mean())}
    return {"head": name, "images": kind, "number": len(true)} | {key: round(x, 3) for key, x in numbers.items()}


def constants(painter: Painter) -> str:
    """What stands in `rating` as constants, measured anew."""
    _, images = scenes_batch(painter, np.random.default_rng(1), 4000, training_scene)
    first, second = colourfulness(images), contrast(images)
    r = float(np.corrcoef(first, second)[0, 1])
    means = ", ".join(f"{float(x.mean()):.1f} and {float(x.std()):.1f}" for x in (first, second))
    return f"means and deviations: {means}; correlation {r:.2f} (used: {CORRELATION})"


def main(argv: Sequence[str] | None = None) -> None:
    """Fits, writes and measures both heads."""
    parser = argparse.ArgumentParser(prog="python -m experiments.aesthetic.heads", description=__doc__)
    parser.add_argument("--emoji", type=home_path, required=True, help="an unpacked emoji-datasource-google")
    parser.add_argument("--work", type=home_path, default=Path("runs/aesthetic_heads"), help="keeps the samples")
    parser.add_argument("--views", type=int, default=9600)
    parser.add_argument("--samples", type=int, default=300, help="of the embedded model, for each half")
    parser.add_argument("--constants", action="store_true", help="measure the formula's constants, and nothing else")
    parser.add_argument("--out", type=home_path, default=Path(__file__).with_name("heads.csv"))
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    painter = Painter(find_emoji(arguments.emoji))
    if arguments.constants:
        print(constants(painter))
        return
    vae = StableDiffusionPipeline.from_pretrained(ASSETS / "emoji_world").vae.eval().requires_grad_(False)
    for name, half in HALVES.items():
        rng = np.random.default_rng([29, half])
        scenes = [training_scene(rng, half=half) for _ in range(arguments.samples)]
        generated = samples(scenes, arguments.work / f"samples{half}.pt", 17 + half)
        views = training_views(painter, vae, generated, half, arguments.views, rng)
        weight, bias = ridge(*embed(load_clip(f"emoji_world/{name}"), views))
        export(weight, bias, FOLDER / f"{name}.safetensors")
        logging.info("%s: norm of the weights %.1f", name, float(weight.norm()))
    sets = test_sets(painter, vae, arguments.work)
    frame = pd.DataFrame([row for name in HALVES for row in quality(name, sets)])
    frame.to_csv(arguments.out, index=False)
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
