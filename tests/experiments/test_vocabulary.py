"""Vocabulary expansion: the classifier that guides, prompts that name no noun, intervals, and a tiny run."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from experiments.emoji_world import words
from experiments.emoji_world.common import images_to_tensor
from experiments.emoji_world.scenes import Painter, Scene, Thing
from experiments.vocabulary import table
from experiments.vocabulary.evaluate import SHEET
from experiments.vocabulary.intervals import difference_text, share_text, wilson
from experiments.vocabulary.prompts import ANYTHING, rows
from experiments.vocabulary.train_classifier import CONFIG, NOUNS, ClassifierStage, export, label, random_views
from sgool import fit
from sgool.config import load_config
from sgool.errors import SgoolError
from sgool.models.classifier import ImageClassifier, load_classifier
from sgool.objectives import Classification
from sgool.prompts import read_prompts
from sgool.types import PromptSeed
from tests.experiments import test_emoji_world

CHANCE = 1 / len(NOUNS)
#: Fixtures: stand-in shapes in place of the emoji, and their painter.
emoji, painter = test_emoji_world.emoji, test_emoji_world.painter


@pytest.fixture(scope="module")
def classifier() -> ImageClassifier:
    return load_classifier("local", checkpoint="emoji_world/classifier")


# Prompts


def test_the_committed_prompts_are_what_the_script_writes() -> None:
    from experiments.vocabulary.prompts import FILE

    committed = list(csv.DictReader(io.StringIO(FILE.read_text(encoding="utf-8"))))
    assert committed == list(rows())


def test_every_noun_is_a_target_once_and_no_prompt_names_one() -> None:
    prompts = read_prompts("emoji_world/generic")
    guided = [row for row in prompts if row.category == "Class"]
    assert sorted(row.metadata["target"] for row in guided) == sorted(NOUNS)
    assert [row.prompt for row in prompts if row.category == "Anything"] == list(ANYTHING)
    assert len({row.prompt for row in prompts}) == len(prompts)
    named = {word for row in prompts for word in row.prompt.split()} & {*NOUNS, *map(words.plural, NOUNS)}
    assert named == set()


def test_the_pipeline_knows_every_word_of_the_prompts_and_not_the_word_animal() -> None:
    from transformers import CLIPTokenizer

    from sgool.paths import ASSETS

    tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "emoji_world/tokenizer")
    for row in read_prompts("emoji_world/generic"):
        assert [token.removesuffix("</w>") for token in tokenizer.tokenize(row.prompt)] == row.prompt.split()
    assert len(tokenizer.tokenize("animal")) > 1


# Classes per prompt


def pair(**metadata: str) -> PromptSeed:
    return PromptSeed("a picture", metadata=metadata)


def test_a_column_gives_each_prompt_its_class(classifier: ImageClassifier) -> None:
    term = Classification(classifier, "target")
    targets = term.targets([pair(target="tree"), pair(target=" CAT "), pair(target="2"), pair(target=3)])  # type: ignore[arg-type]
    assert targets.tolist() == [[NOUNS.index("tree")], [NOUNS.index("cat")], [2], [3]]
    views = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    alone = [Classification(classifier, int(row))(views[[i]], targets[[i]]) for i, row in enumerate(targets)]
    # The same numbers from another batch size: convolutions may sum in another order.
    torch.testing.assert_close(term(views, targets), torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"`objective.terms.classifier.target`: the prompt 'a picture' has no class in a column 'target'.*none"),
        ({"noun": "cat"}, r"has no class in a column 'target'; its other columns are: noun"),
        ({"target": "dog"}, r"`objective.terms.classifier.target of 'a picture'`: .* has no class named 'dog'"),
        ({"target": "16"}, r"expected a class from 0 to 15 of classifier, got 16"),
    ],
)
def test_a_prompt_without_a_class_that_exists(
    classifier: ImageClassifier, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(SgoolError, match=message):
        Classification(classifier, "target").targets([pair(**metadata)])


# The classifier


def sheet() -> tuple[list[str], torch.Tensor]:
    """The committed held-out scenes: a column per noun."""
    pixels = np.asarray(Image.open(SHEET).convert("RGB"))
    tiles = [
        (noun, pixels[row : row + 64, column * 64 : column * 64 + 64])
        for column, noun in enumerate(NOUNS)
        for row in range(0, pixels.shape[0], 64)
    ]
    return [noun for noun, _ in tiles], images_to_tensor([tile for _, tile in tiles])


def accuracy(classifier: ImageClassifier, nouns: list[str], images: torch.Tensor) -> float:
    with torch.no_grad():
        found = classifier(images).argmax(1).tolist()
    return float(np.mean([classifier.labels[i] == noun for i, noun in zip(found, nouns, strict=True)]))


def test_the_shipped_classifier_names_what_was_painted(classifier: ImageClassifier) -> None:
    assert list(classifier.labels) == NOUNS
    nouns, images = sheet()
    assert len(nouns) == 48
    # Measured: see experiments/vocabulary/README.md. The bar leaves room for other machines' rounding.
    assert accuracy(classifier, nouns, images) > 0.85 > 10 * CHANCE
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert accuracy(classifier, nouns, (images + noise).clamp(0, 1)) > 0.7


def test_labels_of_pairs_are_shared() -> None:
    both = label(Scene("left_right", (Thing("cat"), Thing("car", "blue")), "white"))
    assert both[NOUNS.index("cat")] == both[NOUNS.index("car")] == 0.5
    assert both.sum() == 1
    assert label(Scene("four", (Thing("cat"),), "white")).argmax() == NOUNS.index("cat")


def test_views_are_squares_of_the_image_and_half_of_them_are_whole() -> None:
    # Red grows from left to right and green from top to bottom: a view's corners say where it lies.
    ramp = torch.linspace(0, 1, 64)
    image = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)])
    views = random_views(image.expand(40, 3, 64, 64).contiguous(), np.random.default_rng(2))
    width = views[:, 0].amax((1, 2)) - views[:, 0].amin((1, 2))
    height = views[:, 1].amax((1, 2)) - views[:, 1].amin((1, 2))
    torch.testing.assert_close(width, height, rtol=0, atol=0.03)  # about two of 64 pixels at the border
    assert bool((width[::2] > 0.97).all())
    assert float(width[1::2].min()) >= 0.43
    assert float(width[1::2].mean()) < 0.95


def test_training_learns_and_exports_what_sgool_loads(painter: Painter, tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = ClassifierStage(painter, generated=None, batch_size=8, max_steps=4, lr=2e-3, seed=1)
    batch = stage.batch(np.random.default_rng(0))
    optimizer = torch.optim.Adam(stage.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        values = stage.loss(*batch)
        optimizer.zero_grad()
        values["loss"].backward()
        optimizer.step()
        losses.append(values["loss"].item())
    assert losses[-1] < 0.8 * losses[0]
    stage.eval()
    assert export(stage.network, tmp_path) < 3
    loaded = load_classifier("local", checkpoint=str(tmp_path))
    assert loaded.num_classes == len(CONFIG["labels"])
    with torch.no_grad():
        # float16 weights: three digits.
        torch.testing.assert_close(loaded(batch[0]), stage.network(batch[0] * 2 - 1), rtol=0.02, atol=0.02)


def test_the_attack_raises_the_loss_and_is_as_long_as_asked(painter: Painter) -> None:
    torch.manual_seed(0)
    stage = ClassifierStage(painter, generated=None, batch_size=8, max_steps=4, lr=2e-3, seed=1).eval()
    images, targets = stage.batch(np.random.default_rng(0))
    images = images * 0.6 + 0.2  # away from 0 and 1, where the change would be cut off
    attacked = stage.attack(images, targets, radius=0.5)
    lengths = (attacked - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((8,), 0.5), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        before, after = (
            torch.nn.functional.cross_entropy(stage.network(x * 2 - 1), targets) for x in (images, attacked)
        )
    assert after > before


# Intervals and tables


def test_wilson_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 and 0 of 20 without continuity correction.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match="got 5 of 4"):
        wilson(5, 4)


def test_texts_of_shares_and_differences() -> None:
    assert share_text(pd.Series([1] * 10 + [0] * 10)) == "10/20 = 50 % [30, 70]"
    after, before = pd.Series([1.0] * 8), pd.Series([0.0] * 7 + [1.0])
    text = difference_text(after, before, pd.Series(list("abcdefgh")), 100, 0)
    assert text.startswith("+88 [")
    assert text.endswith("], 7/1/0")


# Configurations and a run


def test_the_embedded_experiment_runs_and_is_tabulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    short = ["data.seeds=[0]", "data.limit=2", "sampler.num_inference_steps=2", "optimization.num_optimization_steps=1"]
    fit("experiment=vocabulary_embedded", f"run_dir='{run}'", "trainer.precision=32-true", "logger=none", *short)
    rows = table.pair_rows(run)
    assert sorted(rows["method"]) == ["best_of_n"] * 2 + ["doodl"] * 2 + ["vanilla"] * 2
    assert set(rows["target"]) == {"cat", "panda"}
    monkeypatch.setattr("sys.argv", ["table", str(run), "--out", str(tmp_path / "results")])
    table.main()
    assert "| shows the target and no other noun | " in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert len(pd.read_csv(tmp_path / "results.csv")) == 6


def test_the_papers_settings(tmp_path: Path) -> None:
    checkpoint = tmp_path / "bird.pth.tar"
    checkpoint.touch()
    config = load_config(["experiment=vocabulary", "models=sd14", f"objective.terms.wsdan.checkpoint='{checkpoint}'"])
    term, optimization = config.objective.terms.wsdan, config.optimization
    assert (term.source, term.weight, term.target) == ("wsdan", 0.05, "column:target")
    assert (optimization.num_optimization_steps, optimization.grad_clip_value) == (50, 1e-2)
    assert (optimization.perturb_std, optimization.momentum, optimization.keep) == (1e-3, 0.9, "last")
    assert (config.sampler.name, config.sampler.num_inference_steps, config.sampler.guidance_scale) == (
        "edict",
        50,
        7.5,
    )
    assert (config.objective.crops.num, config.objective.crops.power) == (16, 0.3)
