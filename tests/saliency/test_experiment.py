"""experiments/saliency_emoji on shapes in place of the emoji, and the weights that it made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from scipy import ndimage

from experiments.emoji_world import words
from experiments.emoji_world.scenes import Painter, held_out_scene
from experiments.saliency_emoji import evaluate, train
from experiments.saliency_emoji.scenes import BLUR, density, painted_scenes
from sgool.config.paths import ASSETS
from sgool.saliency.metrics import cc
from sgool.saliency.transalnet import load_transalnet

WEIGHTS = ASSETS / "emoji_world" / "saliency" / "transalnet.safetensors"


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 px RGBA shapes under the emoji's names, striped, so that they have an inside."""
    folder = tmp_path_factory.mktemp("emoji")
    for index, name in enumerate(words.NOUNS.values()):
        image = Image.new("RGBA", (64, 64))
        draw = ImageDraw.Draw(image)
        shape = draw.ellipse if index % 2 else draw.rectangle
        shape((6 + index % 4, 8, 57, 56 - index % 5), fill=(40 + 12 * index, 200 - 9 * index, 90, 255))
        shape((20, 20, 40, 44), fill=(250 - 12 * index, 60 + 9 * index, 160, 255))
        image.save(folder / name)
    return folder


def test_the_truth_is_the_blurred_masks(emoji: Path) -> None:
    _, images, masks = painted_scenes(Painter(emoji), np.random.default_rng(0), 3, held_out_scene)
    assert images.shape == (3, 3, 64, 64) and masks.shape == (3, 1, 64, 64)
    expected = ndimage.gaussian_filter(masks[2, 0].numpy(), BLUR, mode="nearest", truncate=4)
    np.testing.assert_allclose(density(masks)[2, 0].numpy(), expected / expected.max(), atol=1e-6)  # float32


def test_the_loss_falls_to_nothing_but_entropy_at_the_truth(emoji: Path) -> None:
    target = density(painted_scenes(Painter(emoji), np.random.default_rng(0), 2, held_out_scene)[2])
    assert float(train._divergence(target, target)) == pytest.approx(0, abs=1e-2)  # 1e-6 is added to the map
    assert float(train._correlation(target, target)) == pytest.approx(1, abs=1e-5)
    assert float(train._divergence(1 - target, target)) > 1 and float(train._correlation(1 - target, target)) < -0.99


def test_a_short_training_writes_weights_that_load(emoji: Path, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    arguments = ["--emoji", str(emoji), "--work", str(tmp_path / "work"), "--weights", str(file), "--steps", "1"]
    assert train.main(arguments) == 0
    assert file.stat().st_size < 3 * 2**20
    assert load_transalnet(str(file), train.BACKBONE, "rgb")(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_without_emoji_the_scripts_say_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for main in (train.main, evaluate.main):
        assert main(["--emoji", str(tmp_path)]) == 2
        assert "expected the Noto emoji" in capsys.readouterr().err


def test_the_table_has_every_detector(emoji: Path, tmp_path: Path) -> None:
    text = evaluate.evaluate(Painter(emoji), 3, tmp_path)
    assert text.count("\n| ") == len(evaluate.ROWS) + 1 + 4  # and the second table's head and layers
    assert all(f"| {name} |" in text for name in evaluate.ROWS)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["scenes"] == 3 and set(written["mean"]) == set(evaluate.ROWS)
    assert all(0 <= row["named"] <= 3 for layer in written["layers"].values() for row in layer.values())


def test_the_shipped_weights_find_shapes_that_they_never_saw(emoji: Path) -> None:
    assert WEIGHTS.stat().st_size < 3 * 2**20
    assert {value.dtype for value in load_file(WEIGHTS).values()} == {torch.float16, torch.int64}
    _, images, masks = painted_scenes(Painter(emoji), np.random.default_rng(1), 8, held_out_scene)
    detector = load_transalnet(str(WEIGHTS), "densenet_small", "rgb")
    values = [cc(s[0], d[0]) for s, d in zip(detector(images), density(masks), strict=True)]
    # 0.997 on the emoji; shapes of other outlines and textures are farther from what it was trained on.
    assert np.mean(values) > 0.8
    empty = torch.full((1, 3, 64, 64), 0.6)
    assert detector.network(torch.nn.functional.interpolate(empty, (128, 128))).max() < 0.5
