"""The emoji scenes' data and autoencoder, without the emoji: stand-in shapes take their place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.emoji_scenes import words as scene_words
from experiments.emoji_scenes.captions import caption
from experiments.emoji_scenes.grounds import SIZE, draw_ground
from experiments.emoji_scenes.scenes import (
    BUSY_SIZES,
    Painter,
    Scene,
    held_out_scene,
    random_scene,
    training_scene,
)
from experiments.emoji_world import words
from experiments.emoji_world.scenes import Thing
from tests.experiments.releases import zeros_in_place_of_t5


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", list(scene_words.GROUNDS))
def test_grounds_are_busy_and_differ(name: str) -> None:
    first, horizon = draw_ground(name, rng(1))
    again, _ = draw_ground(name, rng(1))
    other, _ = draw_ground(name, rng(2))
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1 and 0.2 < horizon < 0.8
    assert np.array_equal(first, again) and np.abs(first - other).mean() > 0.01
    assert np.abs(np.diff(first, axis=1)).mean() > 0.002  # a plain one has 0


def test_distractors_are_no_nouns() -> None:
    assert set(scene_words.DISTRACTORS) == set(scene_words.GROUNDS)
    nouns = set(words.NOUNS.values())
    assert all(nouns.isdisjoint(files) for files in scene_words.DISTRACTORS.values())


def test_each_noun_has_one_ground_place_and_count_held_out() -> None:
    for held_out in (scene_words.HELD_OUT_GROUNDS, scene_words.HELD_OUT_PLACES, scene_words.HELD_OUT_COUNTS):
        assert Counter(noun for noun, _ in held_out) == dict.fromkeys(words.NOUNS, 1)


@pytest.mark.parametrize("half", [0, 1])
def test_training_scenes_are_of_their_half_and_not_held_out(half: int) -> None:
    generator = rng(half)
    scenes = [training_scene(generator, half=half) for _ in range(200)]
    assert not any(scene.is_held_out() for scene in scenes) and {scene.half() for scene in scenes} == {half}
    assert held_out_scene(generator).is_held_out()


def test_a_place_a_ground_and_a_count_can_each_be_held_out() -> None:
    noun, ground = min(scene_words.HELD_OUT_GROUNDS)
    place = next(p for p in scene_words.PLACES if (noun, p) not in scene_words.HELD_OUT_PLACES)
    assert Scene("one", (Thing(noun),), ground, place).is_held_out()
    assert not Scene("one", (Thing(noun),), "white", place).is_held_out()
    noun, place = min(scene_words.HELD_OUT_PLACES)
    assert Scene("one", (Thing(noun),), "white", place).is_held_out()
    noun, count = min(scene_words.HELD_OUT_COUNTS)
    assert Scene({2: "two", 3: "three"}[count], (Thing(noun),), "white").is_held_out()


def test_subjects_on_busy_grounds_are_small_and_where_captions_say(scenes_painter: Painter) -> None:
    generator = rng(3)
    sizes = []
    for _ in range(150):
        scene = random_scene(generator, busy=1)
        painted = scenes_painter.paint(scene, generator)
        assert painted.image.shape == (SIZE, SIZE, 3) and painted.masks.shape == (scene.count, SIZE, SIZE)
        columns = painted.centres[:, 1]
        if scene.place is not None:
            third = SIZE / 3
            cell = {"left": 0, "middle": 1, "right": 2}[scene.place]
            assert cell * third - 1 <= columns[0] <= (cell + 1) * third + 1
            sizes.append(np.ptp(np.nonzero(painted.masks[0] > 0.5)[1]) + 1)
        elif scene.layout == "beside":
            assert columns[0] < columns[1]
    # The stand-ins fill their width; their edges are soft.
    assert BUSY_SIZES[0] - 2 <= min(sizes) and max(sizes) <= BUSY_SIZES[1]


def test_plain_scenes_have_one_colour_around_the_subject(scenes_painter: Painter) -> None:
    scene = Scene("one", (Thing("cat"),), "white", "middle")
    painted = scenes_painter.paint(scene, rng(4))
    assert len(np.unique(painted.image[painted.masks[0] == 0], axis=0)) == 1


def test_captions_state_what_their_flags_say() -> None:
    scene = Scene("one", (Thing("cat", "red"),), "sea", "left")
    text = caption(scene, rng(), relation=1, colours=1, background=1)
    assert "a red cat on the left by the sea" in text.text and text.relation and text.colours and text.background
    text = caption(scene, rng(), relation=0, colours=0, background=0)
    assert text.text.endswith("a cat") and not (text.relation or text.colours or text.background)
    pair = Scene("beside", (Thing("cat"), Thing("star")), "white")
    texts = {caption(pair, rng(i), relation=1, background=1).text for i in range(30)}
    assert any("a cat left of a star on a white background" in t for t in texts)
    assert any("a star right of a cat" in t for t in texts)
    assert "two cats" in caption(Scene("two", (Thing("cat"),), "room"), rng()).text


def test_the_autoencoder_stage_trains_and_its_latents_are_scaled(scenes_painter: Painter) -> None:
    from experiments.emoji_scenes.autoencoder import fold_latent_statistics, new_autoencoder
    from experiments.emoji_world.autoencoder import AutoencoderStage
    from experiments.emoji_world.common import scenes_batch

    torch.manual_seed(0)
    settings = {"max_steps": 2, "lr": 1e-3, "seed": 0, "batch_size": 2, "compile": False}
    stage = AutoencoderStage(scenes_painter, vae=new_autoencoder(), sample=training_scene, **settings)
    batch = stage.batch(rng())
    assert batch[0].shape == (2, 3, SIZE, SIZE) and batch[1].shape == (2, 2, 16, 16, 16)
    stage.loss(*batch)["loss"].backward()
    assert all(p.grad is not None for p in stage.vae.parameters())
    vae = stage.vae.eval()
    _, images = scenes_batch(scenes_painter, rng(1), 16, training_scene)
    images = images * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mean).sample
        fold_latent_statistics(vae, images)
        mean = vae.encode(images).latent_dist.mean
        after = vae.decode(mean).sample
    # float32, through 20 layers, and an untrained encoder's latents are scaled by several hundred.
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    latents = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    assert abs(float(latents.mean())) < 1e-3 and abs(float(latents.std()) - 1) < 1e-2


@pytest.mark.parametrize("kind", ["position", "colour", "count", "object"])
def test_mutations_swap_the_named_fact(kind: str) -> None:
    from experiments.emoji_scenes.clip import attributes, mutate

    generator = rng(5)
    columns = {"position": {1, 2, 3, 4, 6}, "colour": {2, 4}, "count": {0, 6}, "object": {1, 3}}[kind]
    found = 0
    for _ in range(60):
        scene = random_scene(generator)
        other = mutate(scene, kind, generator)
        if other is None:
            assert (kind == "count" and scene.layout == "beside") or (
                kind == "position" and scene.layout in ("two", "three")
            )
            continue
        pairs = zip(attributes(scene), attributes(other), strict=True)
        changed = {i for i, (a, b) in enumerate(pairs) if a != b}
        assert changed and changed <= columns
        assert (other.place is not None) == (other.layout == "one")
        found += 1
    assert found > 20


def test_crops_show_the_whole_subject_at_its_own_resolution(scenes_painter: Painter) -> None:
    from experiments.emoji_scenes.clip import subject_crop

    generator = rng(6)
    for _ in range(20):
        scene = Scene("one", (Thing("cat", "red"),), "white", "right")
        painted = scenes_painter.paint(scene, generator)
        seen = subject_crop(painted, 0, generator)
        assert seen.shape == (SIZE, SIZE, 3)
        background = painted.image[painted.masks[0] == 0][0]
        share = (np.abs(seen.astype(int) - background) > 40).any(-1).sum() / (painted.masks[0] > 0.5).sum()
        assert 1.8 < share < 18  # pixels of the subject, in a crop that is two to four times as large as it was


@pytest.mark.parametrize(("name", "kind", "half"), [("guide", "clip", 0), ("judge", "wordpiece", 1)])
def test_clip_stages_train_on_whole_scenes_and_crops(
    scenes_painter: Painter, tmp_path: Path, name: str, kind: str, half: int
) -> None:
    from open_clip.tokenizer import HFTokenizer

    from experiments.emoji_scenes.clip import SceneClipStage
    from tests.tiny import tiny_clip_folder

    folder = tiny_clip_folder(tmp_path / "clip", kind)  # type: ignore[arg-type]
    tokenizer = HFTokenizer(str(folder), context_length=32)
    sizes = {"groups": 6, "singles": 6, "crops": 4}
    stage = SceneClipStage(name, tokenizer, scenes_painter, half=half, max_steps=2, lr=1e-3, seed=0, **sizes)
    images, tokens, facts, flags = stage.batch(rng())
    assert images.shape[1:] == (3, 64, 64) and facts.shape == flags.shape == (len(images), 7)
    assert len(tokens) == len(images) and (facts[-4:, 6] == -1).all()
    values = stage.loss(images, tokens, facts, flags)
    values["loss"].backward()
    assert torch.isfinite(values["loss"])


def test_the_reader_stage_has_a_peak_at_each_subject(scenes_painter: Painter) -> None:
    from experiments.emoji_world.reader import TINTS, ReaderStage
    from sgool.metrics import SceneReader

    grounds = [*scene_words.GROUNDS, *words.BACKGROUNDS]
    network = SceneReader(nouns=list(words.NOUNS), tints=list(TINTS), backgrounds=grounds, width=8)
    settings = {"max_steps": 2, "lr": 1e-3, "seed": 0, "batch_size": 8}
    stage = ReaderStage(scenes_painter, reader=network, sample=training_scene, recolour=False, **settings)
    images, heat, tints, backgrounds = stage.batch(rng())
    assert images.shape == (8, 3, SIZE, SIZE) and heat.shape == (8, 16, 32, 32) and tints.shape == (8, 32, 32)
    peaks = (heat == 1).sum((1, 2, 3))
    assert peaks.min() >= 1 and peaks.max() <= 3 and backgrounds.max() >= 5
    loss = stage.loss(images, heat, tints, backgrounds)["loss"]
    loss.backward()
    assert torch.isfinite(loss)


def test_the_saliency_stage_has_its_maximum_in_a_subject(scenes_painter: Painter) -> None:
    from experiments.saliency_emoji.train import SaliencyStage

    settings = {"max_steps": 2, "lr": 1e-3, "seed": 0, "batch_size": 2}
    stage = SaliencyStage(scenes_painter, sample=training_scene, vae=None, **settings)
    images, target = stage.batch(rng())
    assert images.shape == (2, 3, SIZE, SIZE) and target.shape == (2, 1, SIZE, SIZE)
    assert target.amax((1, 2, 3)).tolist() == [1, 1] and target.mean() < 0.3
    assert torch.isfinite(stage.loss(images, target)["loss"])


@zeros_in_place_of_t5
def test_flow_stage_and_pipeline_agree_on_prompts_and_velocity(scenes_encoder: tuple) -> None:
    from diffusers import StableDiffusion3Pipeline

    from experiments.emoji_scenes.autoencoder import new_autoencoder
    from experiments.emoji_scenes.denoiser import T5_TOKENS, FlowStage, encode_prompts, new_scheduler, new_transformer

    text_encoder, tokenizer = scenes_encoder
    torch.manual_seed(2)
    scenes = [training_scene(rng(i)) for i in range(8)]
    settings = {"max_steps": 2, "lr": 1e-3, "seed": 0, "batch_size": 4, "compile": False}
    stage = FlowStage(
        scenes, torch.randn(8, 16, 16, 16), text_encoder, tokenizer, transformer=new_transformer(8, 4), **settings
    )
    assert stage.batch(rng())[3].shape == (4, 32 + T5_TOKENS, 16)
    stage.step = 1
    batch = stage.batch(rng())
    assert batch[3].shape == (4, 32, 16) and batch[4].shape == (4, 8)
    stage.loss(*batch)["loss"].backward()
    assert all(p.grad is not None for p in stage.transformer.parameters())
    pipeline = StableDiffusion3Pipeline(
        transformer=stage.transformer.eval(),
        scheduler=new_scheduler(),
        vae=new_autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    embeds, pooled = encode_prompts(text_encoder, tokenizer, ["a red cat by the sea"])
    expected = pipeline.encode_prompt("a red cat by the sea", None, None, max_sequence_length=0)
    torch.testing.assert_close(embeds, expected[0])
    torch.testing.assert_close(pooled, expected[2])
    image = pipeline("a red cat by the sea", num_inference_steps=2, output_type="pt", generator=torch.manual_seed(0))
    assert image.images.shape == (1, 3, SIZE, SIZE)


def test_the_command_line_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.emoji_scenes.train import main

    assert main(["vae", "--work", str(tmp_path), "--emoji", str(tmp_path)]) == 2
    assert "expected the Noto emoji" in capsys.readouterr().err
