"""The emoji scenes' student, export, evaluation and cards, on tiny or untrained networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.emoji_scenes.scenes import Painter, training_scene
from sgool.errors import SgoolError
from tests.experiments.releases import zeros_in_place_of_t5


@pytest.fixture(scope="module")
def lesson(scenes_encoder: tuple) -> Any:
    """A tiny teacher on random latents."""
    from diffusers import SD3Transformer2DModel

    from experiments.emoji_scenes.student import FlowLesson

    torch.manual_seed(0)
    sizes = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16}
    teacher = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
        **sizes,
    )
    torch.nn.init.normal_(teacher.proj_out.weight, std=0.3)  # it must say something
    scenes = [training_scene(np.random.default_rng(i)) for i in range(10)]
    return FlowLesson(scenes, torch.randn(10, 16, 16, 16), teacher.eval().requires_grad_(False), *scenes_encoder)


def settings(**kwargs: Any) -> dict[str, Any]:
    return {"max_steps": 20, "lr": 1e-3, "seed": 0, "batch_size": 6, "compile": False, **kwargs}


def test_the_students_times_are_the_schedulers(lesson: Any) -> None:
    from experiments.emoji_scenes.denoiser import new_scheduler
    from experiments.emoji_scenes.student import USED

    scheduler = new_scheduler()
    for steps in (1, 2, 4):
        scheduler.set_timesteps(steps)
        # The last of several times is 0.001, where nothing is left to do.
        wanted = scheduler.timesteps if steps == 1 else scheduler.timesteps[:-1]
        found = lesson.timesteps(torch.tensor(USED[: len(wanted)]))
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-3)  # float32, of 1000


def test_velocity_noise_and_clean_latents_fit_together(lesson: Any) -> None:
    times = torch.tensor([0, 1, 8, 24])
    clean, noise = torch.randn(2, 4, 16, 16, 16, dtype=torch.float64)
    alpha, sigma = lesson.signal(times)
    assert sigma[0] == 0 and alpha[-1] == 0
    torch.testing.assert_close(alpha + sigma, torch.ones_like(alpha), rtol=0, atol=1e-6)  # float32
    alpha, sigma = 1 - sigma.double(), sigma.double()
    noisy = alpha * clean + sigma * noise
    found = lesson.parts(noisy, lesson.target(clean, noise), alpha, sigma)
    torch.testing.assert_close(found, (noise, clean), rtol=1e-12, atol=1e-12)  # float64, three operations


@zeros_in_place_of_t5
def test_one_step_of_the_pipeline_is_the_students_x0(lesson: Any) -> None:
    from diffusers import StableDiffusion3Pipeline

    from experiments.emoji_scenes.autoencoder import new_autoencoder
    from experiments.emoji_scenes.denoiser import new_scheduler
    from experiments.emoji_world.distil import ConsistencyStage

    stage = ConsistencyStage(lesson, **settings())
    pipeline = StableDiffusion3Pipeline(
        transformer=stage.student.eval(),
        scheduler=new_scheduler(),
        vae=new_autoencoder(),
        text_encoder=lesson.text_encoder,
        tokenizer=lesson.tokenizer,
        text_encoder_2=lesson.text_encoder,
        tokenizer_2=lesson.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 16, 16, 16)
    for length in (0, 256):
        condition = lesson.prepared(lesson.condition(["a red cat by the sea"]), 0 if length else 1)
        with torch.no_grad():
            expected = stage.denoised(noise, torch.tensor([24]), *condition)
        call = {"num_inference_steps": 1, "guidance_scale": 1.0, "max_sequence_length": length}
        found = pipeline("a red cat by the sea", latents=noise, output_type="latent", **call).images
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32


def test_the_teacher_is_guided_with_and_without_t5s_zeros(lesson: Any) -> None:
    from experiments.emoji_scenes.denoiser import T5_EVERY, T5_TOKENS
    from experiments.emoji_world.distil import ConsistencyStage

    stage = ConsistencyStage(lesson, **settings())
    for stage.step, length in ((0, 32 + T5_TOKENS), (1, 32), (T5_EVERY, 32 + T5_TOKENS)):
        clean, noise, times, _, embeds, pooled = stage.batch(np.random.default_rng(1))
        assert embeds.shape == (6, length, 16) and pooled.shape == (6, 8)
        noisy, (alpha, sigma), timesteps = stage.noisy(clean, noise[0], times), lesson.signal(times), times
        timesteps = lesson.timesteps(times)
        eps, x0 = stage.taught(noisy, alpha, sigma, timesteps, embeds, pooled)
        free_embeds, free_pooled = lesson.without_prompt(lesson.condition([""]), (embeds, pooled))
        with torch.no_grad():
            free, bound = (
                lesson.teacher(noisy, e, p, timesteps, return_dict=False)[0]
                for e, p in ((free_embeds, free_pooled), (embeds, pooled))
            )
        velocity = free + 4 * (bound - free)
        torch.testing.assert_close(x0, noisy - sigma * velocity, rtol=1e-4, atol=1e-4)  # in batches of another size
        torch.testing.assert_close(alpha * x0 + sigma * eps, noisy, rtol=1e-4, atol=1e-4)
        assert (free - bound).abs().max() > 1e-4


def test_half_of_the_times_are_those_of_sampling(lesson: Any) -> None:
    from experiments.emoji_scenes.student import GRID, USED
    from experiments.emoji_world.distil import ConsistencyStage

    stage = ConsistencyStage(lesson, **settings(batch_size=400))
    stage.step = 1
    times = stage.batch(np.random.default_rng(0))[2]
    assert times.min() >= 1 and times.max() == GRID
    share = np.isin(times.numpy(), USED).mean()
    assert 0.46 < share < 0.66  # 0.5 and an eighth of the rest; four standard deviations of 400


@pytest.mark.parametrize("step", [0, 8, 10, 19])
def test_consistency_trains_the_student_alone(lesson: Any, step: int) -> None:
    from experiments.emoji_world.distil import ConsistencyStage

    stage = ConsistencyStage(lesson, **settings())
    stage.step = step
    loss = stage.loss(*stage.batch(np.random.default_rng(2)))["loss"]
    loss.backward()
    assert torch.isfinite(loss) and sum(p.grad.abs().sum() for p in stage.student.parameters() if p.grad is not None)
    assert all(p.grad is None for p in lesson.teacher.parameters())
    assert {name.split(".")[0] for name in stage.state_dict()} == {"transformer"}


def test_the_hops_fall_to_one_time(lesson: Any) -> None:
    from experiments.emoji_scenes.student import GRID
    from experiments.emoji_world.distil import ConsistencyStage

    stage = ConsistencyStage(lesson, **settings())
    hops = []
    for stage.step in range(20):
        hops.append(stage.hop())
    assert hops[0] == GRID and hops[-1] == 1 and hops == sorted(hops, reverse=True)


def test_matching_moves_both_networks(lesson: Any) -> None:
    from experiments.emoji_world.distil import MatchingStage

    stage = MatchingStage(lesson, **settings())
    stage.step = 1
    values = stage.loss(*stage.batch(np.random.default_rng(3)))
    values["loss"].backward()
    assert torch.isfinite(values["loss"]) and float(values["score"].detach()) > 0
    for network in (stage.student, stage.fake):
        assert sum(float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None) > 0
    assert {name.split(".")[0] for name in stage.state_dict()} == {"transformer", "fake"}


def test_a_perfect_fake_and_teacher_do_not_move_the_student(lesson: Any) -> None:
    from dataclasses import replace

    from experiments.emoji_world.distil import MatchingStage

    # Without guidance the fake, which begins as the teacher, imagines what the teacher says.
    stage = MatchingStage(replace(lesson, guidance_scale=1.0), **settings())
    stage.step = 1
    values = stage.loss(*stage.batch(np.random.default_rng(3)))
    assert float(values["matching"].detach()) < 1e-6  # float32


def stand_in_work(folder: Path, encoder: tuple) -> Path:
    """A work folder of finished stages whose networks are untrained."""
    from experiments.emoji_scenes.autoencoder import new_autoencoder
    from experiments.emoji_scenes.captions import caption
    from experiments.emoji_scenes.denoiser import new_transformer
    from experiments.emoji_scenes.stages import new_scene_reader
    from experiments.emoji_world.clip import new_clip
    from experiments.emoji_world.tokenizers import new_wordpiece_tokenizer
    from experiments.saliency_emoji.train import BACKBONE
    from sgool.saliency.transalnet_network import ARCHITECTURES, TranSalNet

    torch.manual_seed(0)
    text, tokenizer = encoder
    texts = [
        caption(s, np.random.default_rng(0)).text for s in map(training_scene, map(np.random.default_rng, range(50)))
    ]
    wordpiece = new_wordpiece_tokenizer(folder / "tok_wp", texts)
    tokenizer.save_pretrained(folder / "tok_clip")
    tokenizer.save_pretrained(folder / "pipeline" / "tokenizer")
    text.save_pretrained(folder / "pipeline" / "text_encoder")
    new_autoencoder().save_pretrained(folder / "pipeline" / "vae")
    transformer = new_transformer(8, 4)
    networks = {
        "transformer": ("transformer.", transformer),
        "consistency": ("transformer.", transformer),
        "guide": ("clip.", new_clip("guide", len(tokenizer))),
        "judge": ("clip.", new_clip("judge", len(wordpiece))),
        "reader": ("reader.", new_scene_reader()),
        "saliency": ("network.", TranSalNet(ARCHITECTURES[BACKBONE])),
    }
    for name, (prefix, network) in networks.items():
        (folder / name).mkdir()
        torch.save({prefix + k: v for k, v in network.state_dict().items()}, folder / name / "refreshed.pt")
        (folder / name / "last.ckpt").touch()
    log = folder / "transformer" / "log0" / "metrics.csv"
    log.parent.mkdir()
    log.write_text("epoch,loss,step\n0,1.0,49\n0,0.5,99\n")
    return folder


def test_stages_behind_the_training_write_assets_numbers_and_cards(
    scenes_emoji: Path, scenes_encoder: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.emoji_scenes import evaluate
    from experiments.emoji_scenes.train import main
    from experiments.emoji_world.sheet import Sheet

    stand_in_work(tmp_path / "work", scenes_encoder)
    monkeypatch.setattr(evaluate, "contact_sheet", lambda: Sheet([["a cat", "a red cat"]], side=32))
    monkeypatch.setattr(evaluate, "SAMPLING", {**evaluate.SAMPLING, "num_inference_steps": 2})
    names = ("work", "assets", "turbo", "results")
    where = [text for name in names for text in (f"--{name}", str(tmp_path / name))]
    where += ["--emoji", str(scenes_emoji), "--number", "8", "--prompts", "6"]
    stages = ["export", "evaluate", "export_turbo", "measure_turbo", "logs", "card"]
    assert main([*stages, *where]) == 0
    assets, results = tmp_path / "assets", tmp_path / "results"
    index = json.loads((assets / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusion3Pipeline"
    assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
    metrics = json.loads((results / "metrics.json").read_text())
    assert set(metrics["guide"]) == {"crops", "same", "whole", "seen"}
    assert set(metrics["guide"]["crops"]) == set(metrics["guide"]["same"]) == {"colour", "object"}
    assert {"objects", "count", "colours", "relation", "place", "background", "all"} == set(metrics["reader"])
    assert set(metrics["saliency"]) == {"transalnet", "center", "spectral_residual"}
    assert set(metrics["samples"]) == {
        "Single objects", "Colours", "Place", "Counting", "Two objects", "Positional",
    }  # fmt: skip
    table = json.loads((results / "turbo.json").read_text())
    assert list(table) == ["base, 2 steps", "student, 1", "student, 2", "student, 4", "student, 4, with T5's zeros"]
    assert (results / "samples.png").is_file() and (results / "turbo.png").is_file()
    card, student = ((tmp_path / name / "README.md").read_text() for name in ("assets", "turbo"))
    assert "| autoencoder, PSNR in dB |" in card and "| denoiser | 100 |" in card
    assert "| student, 4 steps: single subject recognised |" in card and "| transalnet |" in card
    assert "| student, 1 |" in student
    loads_by_diffusers(tmp_path / "turbo")


def loads_by_diffusers(folder: Path) -> None:
    """Diffusers' own call, in float32, with and without T5's zeros."""
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.text_encoder_2.dtype == pipeline.transformer.dtype == torch.float32
    for more in ({}, {"max_sequence_length": 0}):
        image = pipeline("a red cat", num_inference_steps=1, guidance_scale=1.0, output_type="pt", **more).images
        assert image.shape == (1, 3, 128, 128)


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.emoji_scenes.train import main

    where = [text for name in ("work", "assets", "turbo", "results", "emoji") for text in (f"--{name}", str(tmp_path))]
    for stage, expected in {
        "export": "expected all stages to be finished, got nothing of vae, text_encoder, denoiser",
        "export_turbo": "run the stage `consistency` first",
        "consistency": "which the stage `denoiser` writes",
        "logs": "expected training logs",
        "card": "which the stage `evaluate` writes",
    }.items():
        assert main([stage, *where]) == 2
        assert expected in capsys.readouterr().err


def test_all_runs_every_stage_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.emoji_scenes import train

    ran: list[str] = []
    monkeypatch.setattr(train, "function", lambda stage, setup, arguments: lambda: ran.append(stage))
    for _ in range(2):
        assert train.main(["all", "--work", str(tmp_path)]) == 0
    assert ran == list(train.STAGES)
    from experiments.emoji_scenes import stages

    assert all(callable(getattr(stages, stage)) for stage in (*train.BASE, *train.STUDENT))


def test_crops_and_wholes_are_asked_the_same(scenes_painter: Painter) -> None:
    from experiments.emoji_scenes.evaluate import CROP_KINDS, clip_choices

    class Recorder:
        """Knows every caption and image that it was asked about; its answers are all the same."""

        def __init__(self) -> None:
            self.texts: list[str] = []
            self.images: list[torch.Tensor] = []

        def encode_text(self, texts: list[str]) -> torch.Tensor:
            self.texts += texts
            return torch.ones(len(texts), 2)

        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            self.images.append(images)
            return torch.ones(len(images), 2)

    recorder: Any = Recorder()
    result = clip_choices(recorder, scenes_painter, 3, half=0)
    part = 4 * 3 * len(CROP_KINDS)
    assert recorder.texts[:part] == recorder.texts[part : 2 * part]
    assert not any(" on the left" in t or " in the middle" in t or " on the right" in t for t in recorder.texts[:part])
    assert all(len(set(recorder.texts[i : i + 4])) == 4 for i in range(0, part, 4))
    assert not torch.equal(recorder.images[0], recorder.images[2]) and len(recorder.images) == 12
    assert set(result["whole"].values()) == {1.0}  # the first of equal answers is taken


def test_all_assets_together_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.emoji_scenes import export

    monkeypatch.setattr(export, "ASSETS", tmp_path)
    (tmp_path / "emoji_scenes").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "weights").open("wb") as file:
            file.truncate(41 * 2**20)
    with pytest.raises(SgoolError, match=r"at most 120 MiB, got 123\.0 MiB"):
        export.check_sizes(tmp_path / "emoji_scenes")
