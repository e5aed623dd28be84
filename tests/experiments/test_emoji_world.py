"""The emoji world's data, losses and stages, without the emoji: stand-in shapes take their place."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from experiments.emoji_world import words
from experiments.emoji_world.captions import article, caption, describe
from experiments.emoji_world.prompts import CATEGORIES, category_of, demo_rows, rows, states_held_out
from experiments.emoji_world.scenes import (
    SIZE,
    Painter,
    Scene,
    Thing,
    held_out_scene,
    mutate,
    random_scene,
    training_scene,
)

PROMPTS = Path(__file__).resolve().parents[2] / "sgool" / "assets" / "emoji_world" / "prompts"


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 64 px RGBA shapes, one per noun, each with a transparent border."""
    folder = tmp_path_factory.mktemp("emoji")
    for index, name in enumerate(words.NOUNS.values()):
        image = Image.new("RGBA", (64, 64))
        box = (6 + index % 4, 8, 57, 56 - index % 5)
        draw = ImageDraw.Draw(image)
        draw.rectangle(box, fill=(40 + 12 * index, 200 - 9 * index, 90, 255)) if index % 2 else draw.ellipse(
            box, fill=(250 - 12 * index, 60 + 9 * index, 160, 255)
        )
        image.save(folder / name)
    return folder


@pytest.fixture(scope="module")
def painter(emoji: Path) -> Painter:
    return Painter(emoji)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Words and held-out combinations


def test_held_out_sets_have_the_documented_sizes() -> None:
    assert len(words.NOUNS) == 16 and len(words.TINTS) == 6 and len(words.BACKGROUNDS) == 6
    assert Counter(noun for noun, _ in words.HELD_OUT_TINTS) == dict.fromkeys(words.NOUNS, 1)
    assert Counter(noun for noun, _ in words.HELD_OUT_BACKGROUNDS) == dict.fromkeys(words.NOUNS, 1)
    assert len(words.HELD_OUT_COUNTS) == 12
    assert len(words.HELD_OUT_PAIRS) == 12
    assert len(words.HELD_OUT_RELATIONS) == 80


def test_held_out_relations_are_of_pairs_that_training_sees() -> None:
    pairs = {(min(a, b), max(a, b)) for a, _, b in words.HELD_OUT_RELATIONS}
    assert pairs.isdisjoint(words.HELD_OUT_PAIRS)


def test_held_out_tints_are_tints_that_the_noun_may_have() -> None:
    assert all(tint in words.allowed_tints(noun) for noun, tint in words.HELD_OUT_TINTS)


def test_colour_words_are_unambiguous() -> None:
    assert set(words.TINTS).isdisjoint(words.BACKGROUNDS)


def test_stable_hash_is_the_same_on_every_machine() -> None:
    # SHA-256 of "tint|cat|blue", its first eight bytes: the committed weights depend on the split that follows from it.
    assert words.stable_hash("tint", "cat", "blue") == 0xD52D22A4BD75368B


@pytest.mark.parametrize("half", [0, 1])
def test_training_scenes_are_of_their_half_and_not_held_out(half: int) -> None:
    generator = rng(half)
    scenes = [training_scene(generator, half=half) for _ in range(200)]
    assert not any(scene.is_held_out() for scene in scenes)
    assert {scene.half() for scene in scenes} == {half}


def test_both_halves_and_all_layouts_occur() -> None:
    generator = rng(3)
    scenes = [random_scene(generator) for _ in range(400)]
    assert {scene.layout for scene in scenes} == set(words.LAYOUTS)
    share = np.mean([scene.half() for scene in scenes])
    assert 0.4 < share < 0.6  # four standard deviations of 400 fair coins


def test_a_scene_is_held_out_by_each_kind_of_combination() -> None:
    noun, tint = min(words.HELD_OUT_TINTS)
    background = next(b for b in words.BACKGROUNDS if (noun, b) not in words.HELD_OUT_BACKGROUNDS)
    assert Scene("single", (Thing(noun, tint),), background).is_held_out()
    noun, background = min(words.HELD_OUT_BACKGROUNDS)
    assert Scene("single", (Thing(noun),), background).is_held_out()
    noun, count = min(words.HELD_OUT_COUNTS)
    assert Scene({2: "two", 3: "three", 4: "four"}[count], (Thing(noun),), "white").is_held_out()
    a, b = min(words.HELD_OUT_PAIRS)
    for layout, things in product(("left_right", "top_bottom"), ((Thing(a), Thing(b)), (Thing(b), Thing(a)))):
        assert Scene(layout, things, "white").is_held_out()
    a, layout, b = min(words.HELD_OUT_RELATIONS)
    assert Scene(layout, (Thing(a), Thing(b)), "white").is_held_out()


# Prompt sets


def prompt_rows(name: str) -> list[dict[str, str]]:
    with (PROMPTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scenes_that_fit(facts: dict) -> list[Scene]:
    """All scenes of which the facts are true; what has no tint in them has its own colours."""
    things = tuple(Thing(item["noun"], item.get("tint")) for item in facts["objects"])
    backgrounds = [facts["background"]] if "background" in facts else list(words.BACKGROUNDS)
    if len(things) == 1:
        layout = {1: "single", 2: "two", 3: "three", 4: "four"}[facts["objects"][0].get("count", 1)]
        return [Scene(layout, things, background) for background in backgrounds]
    if "relation" in facts:
        return [Scene(facts["relation"], things, background) for background in backgrounds]
    orders, layouts = (things, things[::-1]), ("left_right", "top_bottom")
    return [Scene(layout, order, b) for layout, order, b in product(layouts, orders, backgrounds)]


def test_held_out_prompts_are_many_and_in_all_categories() -> None:
    table = prompt_rows("heldout")
    assert len({row["prompt"] for row in table}) == len(table) >= 200
    assert Counter(row["category"] for row in table) == dict.fromkeys(CATEGORIES, len(table) // 6)


@pytest.mark.parametrize("name", ["heldout", "demo"])
def test_no_training_scene_fits_a_held_out_prompt(name: str) -> None:
    fitting = {
        row["prompt"]: scene
        for row in prompt_rows(name)
        for scene in scenes_that_fit(json.loads(row["scene"]))
        if not scene.is_held_out()
    }
    assert fitting == {}


def test_tuning_prompts_are_not_held_out_ones() -> None:
    tune = prompt_rows("tune")
    assert {row["prompt"] for row in tune}.isdisjoint(row["prompt"] for row in prompt_rows("heldout"))
    # Each fits at least one scene of the training.
    assert all(not all(s.is_held_out() for s in scenes_that_fit(json.loads(row["scene"]))) for row in tune)


def test_committed_prompt_sets_are_what_the_script_writes() -> None:
    assert Counter(map(str, rows(held_out_scene, 40, 2026))) == Counter(map(str, prompt_rows("heldout")))
    assert list(demo_rows()) == prompt_rows("demo")


def test_a_held_out_background_that_is_not_named_holds_nothing_out() -> None:
    noun, background = min(words.HELD_OUT_BACKGROUNDS)
    scene = Scene("single", (Thing(noun),), background)
    assert states_held_out(scene, caption(scene, rng(), background=1))
    assert not states_held_out(scene, caption(scene, rng(), background=0))


@pytest.mark.parametrize(
    ("scene", "relation", "expected"),
    [
        (Scene("left_right", (Thing("cat"), Thing("car")), "white"), True, "Positional"),
        (Scene("left_right", (Thing("cat"), Thing("car")), "white"), False, "Two objects"),
        (Scene("three", (Thing("car", "blue"),), "white"), False, "Counting"),
        (Scene("single", (Thing("cat", "blue"),), "white"), False, "Conflicting"),
        (Scene("single", (Thing("car", "blue"),), "white"), False, "Colours"),
        (Scene("single", (Thing("car"),), "white"), False, "Single objects"),
    ],
)
def test_category(scene: Scene, relation: bool, expected: str) -> None:
    assert category_of(scene, relation) == expected


# Scenes and painting


def test_scenes_and_images_follow_from_the_seed(painter: Painter) -> None:
    def make(seed: int) -> tuple[list[Scene], np.ndarray]:
        generator = rng(seed)
        scenes = [random_scene(generator) for _ in range(6)]
        return scenes, np.stack([painter.paint(scene, generator).image for scene in scenes])

    first, again, other = make(7), make(7), make(8)
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0] != other[0]


@pytest.mark.parametrize("layout", words.LAYOUTS)
def test_masks_and_centres_agree_with_the_layout(painter: Painter, layout: str) -> None:
    weights = tuple(float(name == layout) for name in words.LAYOUTS)
    generator = rng(1)
    for _ in range(5):
        scene = random_scene(generator, weights=weights)
        painted = painter.paint(scene, generator)
        assert painted.image.shape == (SIZE, SIZE, 3) and painted.image.dtype == np.uint8
        assert len(painted.masks) == len(painted.centres) == scene.count
        for mask, centre in zip(painted.masks, painted.centres, strict=True):
            visible = np.argwhere(mask > 0.5)
            # The shapes are symmetric and do not overlap; the centre is that of the sprite's box.
            np.testing.assert_allclose(visible.mean(0) + 0.5, centre, atol=1.5)
        assert painted.masks.sum(0).max() <= 1 + 1e-5
        if scene.is_pair:
            axis = 1 if layout == "left_right" else 0
            assert painted.centres[0, axis] < painted.centres[1, axis]


def test_pixels_outside_of_all_masks_have_the_background_colour(painter: Painter) -> None:
    painted = painter.paint(Scene("single", (Thing("cat", "red"),), "cyan"), rng(2))
    outside = painted.image[painted.masks[0] == 0].astype(float)
    assert np.ptp(outside, axis=0).max() == 0
    # Noise of 0.015 of 255 on the colour: five standard deviations.
    np.testing.assert_allclose(outside[0], words.BACKGROUNDS["cyan"], atol=5 * 0.015 * 255)


def test_tints_change_the_object_and_nothing_else(painter: Painter) -> None:
    scene = Scene("single", (Thing("car"),), "gray")
    plain = painter.paint(scene, rng(4))
    blue = painter.paint(replace(scene, objects=(Thing("car", "blue"),)), rng(4))
    np.testing.assert_array_equal(plain.masks, blue.masks)
    np.testing.assert_array_equal(plain.image[plain.masks[0] == 0], blue.image[blue.masks[0] == 0])
    colour = blue.image[blue.masks[0] == 1].mean(0)
    assert colour[2] > colour[0] and colour[2] > colour[1]


def test_a_folder_without_emoji_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="lacks"):
        Painter(tmp_path)


# Captions


def test_captions_state_what_they_say_they_state() -> None:
    generator = rng(5)
    for _ in range(300):
        scene = random_scene(generator)
        text = caption(scene, generator)
        said = text.text.split()
        assert (" background" in text.text) == text.background
        assert (scene.background in said) == text.background
        for thing in scene.objects:
            many = not scene.is_pair and scene.count > 1
            assert (words.plural(thing.noun) if many else thing.noun) in said
            if thing.tint:
                assert (thing.tint in said) == text.colours
        if not scene.is_pair:
            assert not text.relation
        elif not text.relation:
            assert " and " in text.text


@pytest.mark.parametrize("seed", range(8))
def test_relations_name_the_right_order(seed: int) -> None:
    scene = Scene("top_bottom", (Thing("cat"), Thing("umbrella")), "white")
    text = caption(scene, rng(seed), relation=1, background=0).text
    cat_first = text.index("cat") < text.index("umbrella")
    assert any(word in text for word in (("above", "over", "on top of") if cat_first else ("below", "under")))
    assert "an umbrella" in text


def test_phrases() -> None:
    assert article("orange cat") == "an orange cat"
    assert describe(Thing("butterfly", "blue"), 3) == "three blue butterflies"
    assert describe(Thing("fish", "blue"), colour=False) == "a fish"


# Variants


@pytest.mark.parametrize("kind", ["position", "colour", "count", "object"])
def test_mutate_changes_one_fact(kind: str) -> None:
    from experiments.emoji_world.clip import attributes

    generator = rng(6)
    seen = 0
    for _ in range(200):
        scene = random_scene(generator)
        other = mutate(scene, kind, generator)
        if other is None:
            assert scene.is_pair == (kind == "count") and kind in ("position", "count")
            continue
        seen += 1
        assert other != scene and other.background == scene.background
        if kind == "position":
            assert other.objects == scene.objects[::-1]
            continue
        changed = [i for i, (a, b) in enumerate(zip(attributes(scene), attributes(other), strict=True)) if a != b]
        assert len(changed) == 1
        assert changed[0] in {"count": (0,), "colour": (2, 4), "object": (1, 3)}[kind]
        nouns = [thing.noun for thing in other.objects]
        assert len(set(nouns)) == len(nouns)
        assert all(thing.tint in (None, *words.allowed_tints(thing.noun)) for thing in other.objects)
    assert seen > 20


@pytest.mark.parametrize("kind", ["position", "colour", "count", "object"])
def test_four_way_gives_four_different_scenes(kind: str) -> None:
    from experiments.emoji_world.clip import four_way

    generator = rng(9)
    made = [group for group in (four_way(random_scene(generator), kind, generator) for _ in range(60)) if group]
    assert made
    for group in made:
        assert len(set(group)) == 4
        # The images of a group must be told apart by what the caption states, which is not the background.
        assert len({scene.background for scene in group}) == 1


# Losses


def slow_match(image: Scene, text_of: Scene, text: object) -> bool:
    """Whether all that the caption of ``text_of`` states is true of ``image``."""
    if image.is_pair != text_of.is_pair:
        return False
    if (text.relation or not image.is_pair) and image.layout != text_of.layout:  # type: ignore[attr-defined]
        return False
    for a, b in zip(image.objects, text_of.objects, strict=True):
        if a.noun != b.noun or (text.colours and a.tint != b.tint):  # type: ignore[attr-defined]
            return False
    return not text.background or image.background == text_of.background  # type: ignore[attr-defined]


def test_matches_agrees_with_a_slow_reference() -> None:
    from experiments.emoji_world.clip import attributes, matches, stated

    generator = rng(10)
    scenes = []
    for _ in range(60):
        scene = random_scene(generator)
        kinds = ("position", "colour", "count", "object")
        variants = [mutate(scene, kind, generator) for kind in kinds]
        moved = replace(scene, layout="top_bottom") if scene.layout == "left_right" else None
        recoloured = replace(scene, background="pink")
        scenes += [s for s in (scene, moved, recoloured, *variants) if s is not None]
    texts = [caption(s, generator, relation=0.5, colours=0.5, background=0.5) for s in scenes]
    facts = torch.tensor([attributes(s) for s in scenes])
    flags = torch.tensor([stated(t) for t in texts])
    expected = torch.tensor([[slow_match(i, s, t) for s, t in zip(scenes, texts, strict=True)] for i in scenes])
    torch.testing.assert_close(matches(facts, flags), expected)
    assert expected.diagonal().all()
    assert expected.sum() > 1.5 * len(scenes)  # there were true pairs off the diagonal to find


def test_targets_peak_at_the_centres() -> None:
    from experiments.emoji_world.reader import TINTS, targets

    scene = Scene("left_right", (Thing("cat", "blue"), Thing("car")), "white")
    heat, tints = targets(scene, np.array([[30.0, 17.0], [33.0, 47.0]], np.float32))
    nouns = list(words.NOUNS)
    assert heat[nouns.index("cat"), 7, 4] == 1 and heat[nouns.index("car"), 8, 11] == 1
    assert (heat == 1).sum() == 2
    assert heat[nouns.index("cat"), 7, 6] == pytest.approx(np.exp(-2))
    assert tints[7, 4] == TINTS.index("blue") and tints[8, 11] == TINTS.index("natural")
    # A centre and its eight neighbours, twice.
    assert (tints >= 0).sum() == 18


def test_targets_of_equal_objects_share_one_map() -> None:
    from experiments.emoji_world.reader import targets

    centres = np.array([[19, 19], [19, 45], [45, 45]], np.float32)
    heat, _ = targets(Scene("three", (Thing("star"),), "white"), centres)
    assert (heat[list(words.NOUNS).index("star")] == 1).sum() == 3
    assert (heat.max(axis=(1, 2)) > 0).sum() == 1


def test_focal_loss_is_that_of_centernet() -> None:
    from experiments.emoji_world.reader import focal_loss

    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    target = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64) * 0.9
    target[0, 1, 2, 3] = target[1, 0, 0, 0] = 1
    total = 0.0
    for logit, y in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + np.exp(-logit))
        total -= (1 - p) ** 2 * np.log(p) if y == 1 else (1 - y) ** 4 * p**2 * np.log(1 - p)
    # float64 throughout, 96 terms.
    assert focal_loss(logits, target).item() == pytest.approx(total / 2, rel=1e-12)


def test_focal_loss_without_objects_is_finite() -> None:
    from experiments.emoji_world.reader import focal_loss

    assert torch.isfinite(focal_loss(torch.full((1, 2, 4, 4), 80.0), torch.zeros(1, 2, 4, 4)))


# Augmentation


def test_augmentation_without_move_leaves_objects_where_they_are() -> None:
    from experiments.emoji_world.augment import augment

    images = torch.full((8, 3, 64, 64), 0.1)
    images[:, :, 20:30, 40:52] = 0.9
    still = augment(images, rng(11), 64, move=0)
    moved = augment(images, rng(11), 64, move=1)

    def corner(batch: torch.Tensor) -> torch.Tensor:
        mask = (batch.mean(1) > 0.5).double()
        row, column = torch.arange(64.0).double(), torch.arange(64.0).double()
        total = mask.sum((1, 2))
        return torch.stack([(mask.sum(2) * row).sum(1) / total, (mask.sum(1) * column).sum(1) / total], 1)

    # The middle of rows 20..29 and columns 40..51; blur and noise of 0.08 leave the threshold's middle within a pixel.
    assert (corner(still) - torch.tensor([24.5, 45.5])).abs().max() < 0.6
    assert (corner(moved) - torch.tensor([24.5, 45.5])).abs().max() > 1.5
    assert still.min() >= 0 and still.max() <= 1


def test_augmentation_resizes_and_follows_the_generator() -> None:
    from experiments.emoji_world.augment import augment

    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    first = augment(images, rng(12), 32)
    assert first.shape == (4, 3, 32, 32)
    torch.testing.assert_close(first, augment(images, rng(12), 32), rtol=0, atol=0)


# Networks


def test_folded_statistics_keep_the_reconstruction() -> None:
    from diffusers import AutoencoderKL

    from experiments.emoji_world.autoencoder import fold_latent_statistics

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        mid_block_add_attention=False,
    )
    vae = vae.double().eval()
    with torch.no_grad():
        vae.quant_conv.bias += torch.tensor([3.0, -1, 0.5, 0, 0, 0, 0, 0])
    images = torch.rand(6, 3, 16, 16, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(images).latent_dist
        decoded = vae.decode(before.mean).sample
        fold_latent_statistics(vae, images)
        after = vae.encode(images).latent_dist
        again = vae.decode(after.mean).sample
    # float64 and a few hundred operations an output.
    torch.testing.assert_close(again, decoded, rtol=1e-9, atol=1e-9)
    mean, std = after.mean.mean((0, 2, 3)), after.mean.std((0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(4).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(std, torch.ones(4).double(), rtol=1e-9, atol=0)
    # The distribution's width is scaled with its mean.
    scale = before.mean.std((0, 2, 3)).view(1, 4, 1, 1)
    torch.testing.assert_close(after.std * scale, before.std, rtol=1e-9, atol=0)


def test_text_encoder_has_the_hidden_states_of_the_clip_tower(clip_folder: Path) -> None:
    import open_clip
    from transformers import CLIPTokenizer

    from experiments.emoji_world.text_encoder import text_encoder_from_clip

    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}", precision="fp32")
    tokenizer = CLIPTokenizer.from_pretrained(str(clip_folder))
    tokens = tokenizer(
        ["a red cat", "three purple butterflies above a car"],
        padding="max_length",
        truncation=True,
        max_length=clip.context_length,
        return_tensors="pt",
    ).input_ids
    # As `encode_text` of open_clip, without pooling: transformer of the embeddings under the causal mask, layer norm.
    with torch.no_grad():
        hidden = clip.token_embedding(tokens) + clip.positional_embedding
        expected = clip.ln_final(clip.transformer(hidden, attn_mask=clip.attn_mask))
    heads = clip.transformer.resblocks[0].attn.num_heads
    width = expected.shape[-1]
    encoder = text_encoder_from_clip(clip.state_dict(), tokenizer, head_width=width // heads)
    # float32, two layers of 16 channels after a layer norm.
    torch.testing.assert_close(encoder(tokens).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    projected = text_encoder_from_clip(clip.state_dict(), tokenizer, head_width=width // heads, projection=True)
    with torch.no_grad():
        pooled = clip.encode_text(tokens)
    torch.testing.assert_close(projected(tokens).text_embeds, pooled, rtol=1e-4, atol=1e-5)


# Stages


class TinyStage:
    """Built in a function: importing Lightning takes seconds, which the other tests need not wait for."""

    @staticmethod
    def make(max_steps: int = 4) -> Any:
        from experiments.emoji_world.common import Stage

        class Regression(Stage):
            def __init__(self) -> None:
                torch.manual_seed(0)
                super().__init__(max_steps=max_steps, lr=0.1, seed=3, warmup=2)
                self.net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
                self.steps: list[int] = []

            def batch(self, rng: np.random.Generator) -> tuple:
                self.steps.append(self.step)
                return (torch.from_numpy(rng.standard_normal((16, 4), dtype=np.float32)),)

            def loss(self, values: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
                return {"loss": (self.net(values)[:, 0] - values.sum(1)).square().mean()}

        return Regression()


def test_a_resumed_stage_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    from experiments.emoji_world.common import fit, trained_state

    straight = fit(TinyStage.make(), tmp_path / "a", precision="32-true", ema=0.5, snapshots={2: "half.ckpt"})
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "half.ckpt", tmp_path / "b" / "last.ckpt")
    resumed = fit(TinyStage.make(), tmp_path / "b", precision="32-true", ema=0.5)
    assert resumed.steps[:2] == [2, 3]
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)
    stored = trained_state(tmp_path / "b", "net.")
    torch.testing.assert_close(stored["1.running_mean"], resumed.net[1].running_mean, rtol=0, atol=0)
    assert not resumed.training


def test_a_finished_stage_is_not_trained_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    from experiments.emoji_world.common import fit, load_checkpoint

    first = fit(TinyStage.make(2), tmp_path, precision="32-true")
    again = fit(TinyStage.make(2), tmp_path, precision="32-true")
    assert set(again.steps) == {2}  # the batches of the batch norms' statistics only
    torch.testing.assert_close(again.state_dict(), first.state_dict(), rtol=0, atol=0)
    longer = fit(TinyStage.make(4), tmp_path, precision="32-true")
    assert longer.steps[:2] == [2, 3]
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4
    assert [f.name for f in sorted(tmp_path.glob("log*"))] == ["log0", "log1"]


@pytest.mark.parametrize(("name", "kind", "half"), [("guide", "clip", 0), ("judge", "wordpiece", 1)])
def test_clip_stages_train_on_painted_scenes(emoji: Path, tmp_path: Path, name: str, kind: str, half: int) -> None:
    from open_clip.tokenizer import HFTokenizer

    from experiments.emoji_world.clip import ClipStage
    from tests.tiny import tiny_clip_folder

    folder = tiny_clip_folder(tmp_path / "clip", kind)  # type: ignore[arg-type]
    tokenizer = HFTokenizer(str(folder), context_length=32)
    # Enough scenes that each attribute occurs: the mean over none would be NaN.
    sizes = {"groups": 6, "singles": 6, "crops": 2}
    stage = ClipStage(name, tokenizer, Painter(emoji), half=half, max_steps=2, lr=1e-3, seed=0, **sizes)
    images, tokens, facts, flags = stage.batch(rng())
    assert images.shape == (32, 3, 64, 64) and tokens.shape == (32, 32) and facts.shape == flags.shape == (32, 6)
    values = stage.loss(images, tokens, facts, flags)
    values["loss"].backward()
    assert torch.isfinite(values["loss"])
    assert all(p.grad is not None for p in (stage.clip.text_projection, *stage.clip.visual.parameters()))


def test_reader_stage_recolours_a_quarter(emoji: Path) -> None:
    from experiments.emoji_world.reader import ReaderStage

    settings = {"max_steps": 2, "lr": 1e-3, "seed": 0}
    reader = ReaderStage(Painter(emoji), batch_size=4, **settings)
    plain = ReaderStage(Painter(emoji), batch_size=4, recolour=False, **settings)
    batch, without = reader.batch(rng()), plain.batch(rng())
    assert batch[3].tolist() == [-1, *without[3].tolist()[1:]]  # the first of four is recoloured and not scored
    assert (batch[2][0] == -1).all() and (without[2][0] >= 0).any()
    torch.testing.assert_close(batch[0][1:], without[0][1:], rtol=0, atol=0)
    assert torch.isfinite(reader.loss(*batch)["loss"])


# Command line, logs, card


def test_missing_npm_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.emoji_world.fetch import fetch
    from sgool.errors import SgoolError

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SgoolError, match=r"npm is not installed.*--emoji"):
        fetch(tmp_path / "work")


def test_another_archive_is_refused(tmp_path: Path) -> None:
    from experiments.emoji_world.fetch import ARCHIVE, fetch
    from sgool.errors import SgoolError

    (tmp_path / ARCHIVE).write_bytes(b"something else")
    with pytest.raises(SgoolError, match="expected SHA-256"):
        fetch(tmp_path)


def test_emoji_are_found_in_an_unpacked_package(emoji: Path, tmp_path: Path) -> None:
    from experiments.emoji_world.fetch import find_emoji
    from sgool.errors import SgoolError

    shutil.copytree(emoji, tmp_path / "package" / "img" / "google" / "64")
    expected = (tmp_path / "package" / "img" / "google" / "64").resolve()
    for folder in (tmp_path, tmp_path / "package", expected):
        assert find_emoji(folder).resolve() == expected
    with pytest.raises(SgoolError, match="point --emoji at"):
        find_emoji(tmp_path / "package" / "img")


def test_commands_end_with_a_paragraph_and_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.emoji_world.train import main

    where = ["--work", str(tmp_path), "--results", str(tmp_path), "--assets", str(tmp_path), "--emoji", str(tmp_path)]
    for stage, expected in {
        "text_encoder": "which the stage `guide` writes",
        "export": "expected all stages to be finished",
        "card": "which the stage `evaluate` writes",
        "logs": "expected training logs",
        "vae": "expected the Noto emoji",
    }.items():
        assert main([stage, *where]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "done").exists()


def test_all_skips_what_is_done_and_a_named_stage_runs_again(
    tmp_path: Path, emoji: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.emoji_world import train

    ran: list[str] = []
    monkeypatch.setattr(train, "_function", lambda stage, setup, arguments: lambda: ran.append(stage))
    options = ["--work", str(tmp_path)]
    train.main(["fetch", "vae", *options])
    train.main(["all", *options])
    assert ran == ["fetch", "vae", *(stage for stage in train.STAGES if stage not in ("fetch", "vae"))]
    ran.clear()
    train.main(["all", *options])
    assert ran == []
    train.main(["vae", *options])
    assert ran == ["vae"]


def test_logs_are_merged_and_thinned(tmp_path: Path) -> None:
    import os

    from experiments.emoji_world.logs import collect

    for piece, (first, last, loss) in enumerate([(1000, 1300, 2.0), (1200, 1500, 1.0)]):
        file = tmp_path / "unet" / f"log{piece}" / "metrics.csv"
        file.parent.mkdir(parents=True)
        lines = [f"0,{loss},{step}" for step in range(first - 1, last)]
        file.write_text("epoch,loss,step\n" + "\n".join(lines) + "\n")
        os.utime(file, (1e9 + piece, 1e9 + piece))
    summary = collect(tmp_path, tmp_path / "out")["denoiser"]
    assert summary["steps"] == 1500 and summary["pieces"] == 2 and summary["lost_before"] == 1000
    with (tmp_path / "out" / "denoiser.csv").open() as handle:
        table = list(csv.DictReader(handle))
    assert 100 < len(table) <= 200
    assert [int(table[0]["step"]) <= 1004, int(table[-1]["step"])] == [True, 1500]
    assert {float(row["loss"]) for row in table if int(row["step"]) >= 1200} == {1.0}


def test_the_card_states_numbers_bars_and_failures() -> None:
    from experiments.emoji_world.card import render
    from experiments.emoji_world.evaluate import SAMPLING, bars

    kinds = {"position": 0.97, "colour": 0.95, "count": 0.85, "object": 0.99}
    metrics = {
        "vae": {"mean": 32.4, "q05": 29.0},
        "guide": {"held_out": kinds, "seen": kinds},
        "judge": {"held_out": {**kinds, "count": 0.93}, "seen": kinds},
        "reader": {"objects": 0.99, "count": 0.98, "colours": 0.97, "relation": 0.99, "background": 1.0, "all": 0.9},
        "samples": {
            "Single objects": {"n": 40, "objects": 0.97, "count": 0.95, "background": 0.8, "all": 0.75},
            "Positional": {"n": 40, "objects": 0.5, "count": 0.6, "colours": 0.7, "relation": 0.2, "all": 0.1},
        },
        "settings": {"scenes": 400, "prompts": 80, **SAMPLING},
    }
    metrics["bars"] = bars(metrics)
    assert [row["name"] for row in metrics["bars"] if not row["met"]] == ["guide, hard choices: count"]
    assert len(metrics["bars"]) == 1 + 8 + 5 + 1  # "all" of the reader has no bar
    text = render(metrics, {"vae": {"steps": 5500, "minutes": 19.2, "pieces": 1}}, 29.86)
    assert "| autoencoder, PSNR in dB | 32.400 | 32.0 | yes |" in text
    assert "| guide, hard choices: count | 0.850 | 0.9 | **no** |" in text
    assert "- guide, hard choices: count: 0.850 instead of 0.9." in text
    assert "Positional (0.10), Single objects (0.75)" in text
    assert "29.9 MiB" in text and "| vae | 5500 | 19 |" in text


def test_export_keeps_what_was_not_trained(tmp_path: Path) -> None:
    from experiments.emoji_world.export import export
    from experiments.emoji_world.reader import new_reader
    from sgool.errors import SgoolError

    work, assets = tmp_path / "work", tmp_path / "assets"
    for name in ("vae", "text_encoder", "unet", "guide", "judge"):
        (assets / name).mkdir(parents=True)
        (assets / name / "config.json").write_text("{}")
    with pytest.raises(SgoolError, match="nothing of reader"):
        export(work, assets)
    (work / "reader").mkdir(parents=True)
    torch.save({f"reader.{k}": v for k, v in new_reader().state_dict().items()}, work / "reader" / "refreshed.pt")
    export(work, assets)
    assert (assets / "reader" / "model.safetensors").is_file()
    assert (assets / "unet" / "config.json").read_text() == "{}"


@pytest.mark.parametrize("world", ["emoji_world", "emoji_world_turbo"])
def test_embedded_worlds_have_what_transformers_4_reads(world: str) -> None:
    """It takes random weights for a text encoder whose names it does not know; 5 reads both names."""
    from safetensors import safe_open

    from sgool.models.assets import resolve_asset

    folder = Path(resolve_asset(world))
    with safe_open(folder / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118
    model = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    assert json.loads((folder / "tokenizer" / "vocab.json").read_text()) == model["vocab"]
    merges = (folder / "tokenizer" / "merges.txt").read_text().splitlines()[1:]
    assert [tuple(line.split(" ")) for line in merges] == [tuple(pair) for pair in model["merges"]]


def test_a_saved_text_encoder_gets_the_names_of_transformers_4(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from experiments.emoji_world.export import make_readable_by_transformers_4

    part = tmp_path / "text_encoder_2"
    part.mkdir()
    names = ("embeddings.token_embedding.weight", "text_model.final_layer_norm.bias", "text_projection.weight")
    save_file({name: torch.full((2,), float(index)) for index, name in enumerate(names)}, part / "model.safetensors")
    make_readable_by_transformers_4(part)
    found = {name: float(value[0]) for name, value in load_file(part / "model.safetensors").items()}
    assert found == {f"text_model.{names[0]}": 0.0, names[1]: 1.0, names[2]: 2.0}


def test_export_refuses_more_than_the_limit(tmp_path: Path) -> None:
    from experiments.emoji_world.export import check_size
    from sgool.errors import SgoolError

    (tmp_path / "small").write_bytes(b"x" * 2**20)
    assert check_size(tmp_path) == pytest.approx(1)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(64 * 2**20)
    with pytest.raises(SgoolError, match=r"at most 64 MiB, got 65\.0 MiB"):
        check_size(tmp_path)
