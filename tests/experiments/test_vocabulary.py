"""Vocabulary expansion: the classifier that guides, prompts that name no noun, FID and KID, and a tiny run."""

from __future__ import annotations

import csv
import io
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchmetrics.image.kid import poly_mmd

from experiments.emoji_world import words
from experiments.emoji_world.common import images_to_tensor
from experiments.emoji_world.scenes import Painter, Scene, Thing
from experiments.vocabulary import fid, reference, table
from experiments.vocabulary.evaluate import SHEET
from experiments.vocabulary.prompts import ANYTHING, rows
from experiments.vocabulary.train_classifier import CONFIG, NOUNS, ClassifierStage, export, label, random_views
from sgool import fit
from sgool.errors import SgoolError
from sgool.models.classifier import ImageClassifier, load_classifier
from sgool.objectives import Classification
from sgool.prompts import expand_pairs, read_prompts
from sgool.results import RunFolder
from sgool.run.config import load_config, to_plain
from sgool.types import PairRecord, PromptSeed
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

    from sgool.config.paths import ASSETS

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


# FID and KID


def test_reference_images_are_of_the_target_on_the_prompt_s_background(
    painter: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reference.SETS, "reference", 5)
    reference.write(painter, tmp_path / "a")
    reference.write(painter, tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(files) == 2 * (5 + 3 + 3) * 16
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    for noun, background in reference.backgrounds().items():
        for kind in reference.SCENES:
            corner = Image.open(tmp_path / "a" / kind / "reference" / noun / "00.png").getpixel((0, 0))
            # The painter's own noise on a background: a standard deviation of 4 of 255 for each colour.
            assert np.abs(np.subtract(corner, words.BACKGROUNDS[background])).max() < 25
            other = reference.another(noun, background, kind)
            assert other != noun and reference.scenes_of(other, background, kind)
        unseen, every = (reference.scenes_of(noun, background, kind) for kind in ("unseen", "any"))
        assert {scene.objects[0].tint for scene in every} == {None, *words.allowed_tints(noun)}
        assert unseen == [scene for scene in every if scene.is_held_out() or scene.half() == 1] != []


def test_kid_of_all_images_is_that_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(number, 7, generator=generator, dtype=torch.float64) for number in (5, 8))
    expected = poly_mmd(x[torch.arange(5)], y[torch.arange(5)], degree=3, gamma=None, coef=1.0)
    assert fid.squared_mmd(x, y[:5]) == pytest.approx(float(expected), rel=1e-12)  # float64 sums
    # torchmetrics wants sets of one size: the mean over all choices of seven of the eight is the same estimate.
    chosen = [[i for i in range(8) if i != left] for left in range(8)]
    assert fid.squared_mmd(x, y) == pytest.approx(np.mean([fid.squared_mmd(x, y[rows]) for rows in chosen]), rel=1e-10)


def test_differences_are_of_the_same_noun_s_distances() -> None:
    generator = torch.Generator().manual_seed(1)

    def noise(number: int, shift: float) -> fid.Classes:
        return {
            noun: torch.randn(number, 4, generator=generator, dtype=torch.float64) + shift + place
            for place, noun in enumerate(NOUNS[:6])
        }

    goal = noise(20, 0)
    sets = {"vanilla": noise(3, 3), "doodl": noise(3, 1)}
    sets["doodl"]["cat"] = sets["doodl"]["cat"][:1]  # one image has no distance: the noun is left out
    rows = fid.measure(sets, goal).set_index("set")
    each = {name: [fid.squared_mmd(x, goal[noun]) for noun, x in s.items() if len(x) > 1] for name, s in sets.items()}
    assert rows.loc["doodl", "class_kid"] == pytest.approx(np.mean(each["doodl"]))
    gains = np.subtract(each["doodl"], each["vanilla"][1:] if NOUNS[0] == "cat" else each["vanilla"])
    assert rows.loc["vanilla", "difference"] == pytest.approx(gains.mean())
    assert gains.min() <= rows.loc["vanilla", "low"] <= gains.mean() <= rows.loc["vanilla", "high"] <= gains.max()
    assert list(rows["images"]) == [18, 16, 60]
    assert "| -" in fid.table(rows.reset_index())[2]


def test_the_table_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doodl` has the reference's own images, `vanilla` those of other nouns, from the committed scenes."""
    nouns, images = sheet()
    right = {noun: images[[i for i, name in enumerate(nouns) if name == noun]] for noun in NOUNS}
    wrong = dict(zip(NOUNS, [*list(right.values())[8:], *list(right.values())[:8]], strict=True))
    for name, tiles in (("reference", right), ("right", right), ("wrong", wrong)):
        for kind, noun in product(reference.SCENES, NOUNS):
            folder = tmp_path / "painted" / kind / name / noun
            folder.mkdir(parents=True)
            for number, tile in enumerate(tiles[noun]):
                pixels = (tile * 255).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(folder / f"{number}.png")
    run = RunFolder(tmp_path / "run").open(to_plain(load_config(["experiment=vocabulary_embedded"])), device="test")
    for pair in expand_pairs([row for row in read_prompts("emoji_world/generic") if row.category == "Class"], 2):
        for method, tiles in (("vanilla", wrong), ("doodl", right)):
            record = PairRecord(pair.pair_id, method, pair.prompt, "Class", pair.seed, "done", None, 0, 0, {}, 1, 1, 1)
            run.write(record, {"final": tiles[pair.metadata["target"]][pair.seed].numpy()})
    arguments = [str(tmp_path / "run"), "--reference", str(tmp_path / "painted"), "--out", str(tmp_path / "fid")]
    monkeypatch.setattr("sys.argv", ["fid", *arguments])
    fid.main()
    rows = pd.read_csv(tmp_path / "fid.csv").set_index(["features", "scenes", "set"])
    assert len(rows) == 3 * 2 * 5
    assert rows.loc[("judge", "unseen", "vanilla"), "high"] < 0
    assert rows.loc[("judge", "any", "right"), "fid"] == pytest.approx(0, abs=0.01)  # the same images; roots near 0
    assert rows.loc[("judge", "any", "doodl"), "images"] == 32
    assert "no evidence" in (tmp_path / "fid.md").read_text(encoding="utf-8")


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
