"""Aesthetic editing: the formula, the embedded heads that learned it, photos, controls, and an edit of two updates."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from experiments.aesthetic import heads, run, sheet, table
from experiments.aesthetic.control import RandomPattern
from experiments.aesthetic.filters import filter_of_psnr, psnr, saturate
from experiments.aesthetic.photos import paint, photos
from experiments.aesthetic.rating import (
    COLOURFULNESS,
    CONTRAST,
    CORRELATION,
    coarse,
    colourfulness,
    contrast,
    rating,
)
from sgool.config.judges import optimised_against
from sgool.errors import SgoolError
from sgool.models.aesthetic import load_aesthetic
from sgool.models.clip import load_clip
from sgool.models.images import open_photo, to_tensor
from sgool.objectives.build import build_term
from sgool.objectives.scores import Score
from sgool.run.config import load_config
from sgool.run.parts import Parts
from sgool.types import PromptSeed
from tests.experiments import test_emoji_world

#: A fixture: stand-in shapes in place of the emoji.
emoji = test_emoji_world.emoji


def pictures() -> Tensor:
    """All committed photos, (22, 3, 64, 64)."""
    return torch.stack([to_tensor(open_photo(p.file)) for kind in ("evaluated", "tuned") for p in photos(kind)])


# The formula


def test_two_pixels_by_hand() -> None:
    image = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64).T.reshape(1, 3, 1, 2)
    # Red: rg 255, yb 127.5. Blue: rg 0, yb -255. Deviations 127.5 and 191.25, means 127.5 and -63.75.
    wanted = math.hypot(127.5, 191.25) + 0.3 * math.hypot(127.5, 63.75)
    assert colourfulness(image).item() == pytest.approx(wanted, rel=1e-12)
    # Luma 0.299 * 255 and 0.114 * 255, half their difference from the mean.
    assert contrast(image).item() == pytest.approx(0.185 * 255 / 2, rel=1e-12)


def test_the_formula_is_that_of_numpy() -> None:
    images = torch.rand(5, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for image, value in zip(images.numpy(), rating(images).tolist(), strict=True):
        red, green, blue = 255 * image
        rg, yb = red - green, 0.5 * (red + green) - blue
        m = np.sqrt(np.var(rg) + np.var(yb)) + 0.3 * np.sqrt(np.mean(rg) ** 2 + np.mean(yb) ** 2)
        c = np.std(0.299 * red + 0.587 * green + 0.114 * blue)
        z = (m - COLOURFULNESS[0]) / COLOURFULNESS[1] + (c - CONTRAST[0]) / CONTRAST[1]
        z /= math.sqrt(2 * (1 + CORRELATION))
        # float64 with other orders of summation.
        assert value == pytest.approx(1 + 4.5 * (1 + math.erf(z / math.sqrt(2))), rel=1e-11)


def test_grey_has_no_colour_and_a_texture_none_after_pooling() -> None:
    assert colourfulness(torch.full((1, 3, 8, 8), 0.3)).item() == pytest.approx(0, abs=1e-4)  # float32 of 76.5
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    red_green = torch.stack([checks, 1 - checks, torch.zeros(8, 8)]).double()[None]
    assert colourfulness(red_green) > 200
    # Each cell's mean is the same brownish yellow: no deviation is left, only the mean yb of 127.5.
    assert colourfulness(coarse(red_green)).item() == pytest.approx(0.3 * 127.5, rel=1e-12)


def test_sliders_raise_the_rating() -> None:
    images = pictures()
    more = torch.stack([saturate(image, 1.3) for image in images])
    assert (rating(more) > rating(images)).float().mean() > 0.9


# The photos


def test_the_photos_are_scenes_that_no_training_saw() -> None:
    evaluated, tuned = photos(), photos("tuned")
    assert (len(evaluated), len(tuned)) == (16, 6)
    assert all(photo.file.is_file() and photo.scene.is_held_out() for photo in [*evaluated, *tuned])
    assert len({photo.scene for photo in [*evaluated, *tuned]}) == 22
    assert evaluated[0].text == "a green cat on a gray background"


def test_painting_writes_one_image_per_photo(emoji: Path, tmp_path: Path) -> None:
    paint(emoji, tmp_path)
    for kind in ("evaluated", "tuned"):
        names = [photo.file.name for photo in photos(kind, tmp_path)]
        assert sorted(path.name for path in (tmp_path / kind).iterdir()) == names
        assert Image.open(tmp_path / kind / names[0]).size == (64, 64)


# The heads


def test_the_ridge_is_a_least_squares_problem() -> None:
    random = torch.Generator().manual_seed(1)
    features = torch.randn(40, 5, dtype=torch.float64, generator=random)
    ratings = torch.randn(40, dtype=torch.float64, generator=random)
    weight, bias = heads.ridge(features, ratings, 0.3)
    # The penalty as further rows: sqrt(n * penalty) times each weight should be 0; the bias is free.
    rows = np.vstack([np.c_[features.numpy(), np.ones(40)], np.c_[math.sqrt(40 * 0.3) * np.eye(5), np.zeros(5)]])
    wanted = np.linalg.lstsq(rows, np.r_[ratings.numpy(), np.zeros(5)], rcond=None)[0]
    assert torch.cat([weight, bias[None]]).numpy() == pytest.approx(wanted, rel=1e-9)


def test_an_exported_head_is_read_back(tmp_path: Path) -> None:
    weight, bias = torch.linspace(-1, 1, 128), torch.tensor(5.5)
    heads.export(weight, bias, tmp_path / "head.safetensors")
    tower = load_clip("emoji_world/guide")
    image = pictures()[:1]
    found = load_aesthetic(tower, str(tmp_path / "head.safetensors"))(image, torch.zeros(1, 0))
    assert found.item() == pytest.approx(float(tower.encode_image(image)[0] @ weight + bias), abs=1e-5)  # float32


@pytest.mark.parametrize("name", ["guide", "judge"])
def test_the_shipped_heads_rank_by_the_formula(name: str) -> None:
    options = {"type": "aesthetic", "weight": 1, "goal": "maximize", "views": "whole"}
    options |= {"clip": {"model": f"emoji_world/{name}", "pretrained": None}}
    options |= {"checkpoint": f"emoji_world/aesthetic/{name}.safetensors"}
    parts = Parts(load_config(["models.device=cpu"]))  # type: ignore[arg-type]
    term = build_term("aesthetic", options, parts.networks)
    assert isinstance(term, Score)
    images = pictures()
    images = torch.cat([images, *(torch.stack([saturate(image, f) for image in images]) for f in (0.3, 0.6, 1.5))])
    with torch.no_grad():
        told = term.scorer(images, torch.zeros(len(images), 0))
    found = spearmanr(told.numpy(), rating(images).numpy()).statistic
    # 22 scenes in 4 states; of as few as 22 independent images, chance exceeds 0.51 in one of 100 cases (normal
    # approximation, 2.33 / sqrt(21)). Measured: 0.88 (guide) and 0.84 (judge).
    assert found > 0.6


def test_a_head_belongs_to_its_clip() -> None:
    with pytest.raises(SgoolError, match=r"takes embeddings of 128 numbers, but the CLIP .*judge.* gives 96"):
        load_aesthetic(load_clip("emoji_world/judge"), "emoji_world/aesthetic/guide.safetensors")


# The controls


def test_the_control_is_another_pattern_for_each_pair() -> None:
    term = RandomPattern("random")
    pairs = [PromptSeed("a cat"), PromptSeed("a dog")]
    targets = term.targets(pairs)
    assert targets.equal(term.targets(pairs)) and not targets[0].equal(targets[1])
    views = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([term(views[i : i + 1], targets[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(term(views, targets), alone)


def test_the_filter_changes_as_much_as_is_asked() -> None:
    image = pictures()[0]
    for wanted in (20.0, 30.0):
        # 24 halvings leave rounding to 8 bits, an error of 59 dB that shifts 30 dB by about a hundredth.
        assert psnr(filter_of_psnr(image, wanted), image) == pytest.approx(wanted, abs=0.05)


# The experiment


def test_the_judge_of_taste_is_not_what_is_optimised() -> None:
    config = load_config(["experiment=edit_aesthetic_embedded"])
    assert optimised_against(config) == {"guide", "guide_taste"}  # type: ignore[arg-type]
    assert config.objective.terms.aesthetic.goal == 10 and config.optimization.num_optimization_steps == 25
    assert not (config.optimization.tie or config.optimization.renormalize or config.optimization.perturb_std)


def test_an_edit_of_two_updates_and_its_tables(tmp_path: Path) -> None:
    small = ["sampler.num_inference_steps=3", "optimization.num_optimization_steps=2", "models.device=cpu"]
    small += ["optimization.gradient_rms=0.01", "optimization.grad_clip_value=0.02", "trainer.precision=32-true"]
    run.main(["--out", str(tmp_path), "--goals", "up", "random", "--limit", "1", *small])
    rows = table.rows_of(tmp_path)
    assert list(rows["state"]) == ["input", "reconstruction", "up", "random", "filter"]
    states = rows.set_index("state")
    # The objective is the whole image's rating by the head, 10 at best: the best update is kept.
    told = states["guide_taste/aesthetic"]
    assert abs(10 - told["up"]) < abs(10 - told["reconstruction"])
    assert states.loc["random", "pixels/psnr"] < 60
    assert states.loc["filter", "pixels/psnr"] == pytest.approx(states.loc["up", "pixels/psnr"], abs=0.1)
    assert states.loc["input", "scene_accuracy"] == 1
    folder = next((tmp_path / "up" / "pairs" / "doodl").iterdir())
    assert {"input.png", "reconstruction.png", "final.png", "record.json"} <= {path.name for path in folder.iterdir()}
    text = "\n".join(table.tables(rows))
    assert "| mean of 1 photos | input | reconstruction | up | random | filter |" in text and "nan" not in text
    sheet.write_sheet(tmp_path, tmp_path / "edits.png")
    assert Image.open(tmp_path / "edits.png").size[1] == 14 + 64
