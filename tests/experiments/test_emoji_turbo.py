"""The emoji world's few-step student: times, losses and pipeline, on tiny random networks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from experiments.emoji_world.scenes import training_scene


@pytest.fixture(scope="module")
def lesson() -> Any:
    """A tiny teacher and text encoder on random latents."""
    from diffusers import UNet2DConditionModel

    from experiments.emoji_world.student import Lesson

    torch.manual_seed(0)
    teacher = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    scenes = [training_scene(np.random.default_rng(i)) for i in range(10)]

    def tokenizer(texts: list[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=torch.tensor([[len(text)] * 5 for text in texts]))

    def encoder(tokens: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=torch.sin(tokens[..., None] * torch.arange(1, 17)))

    latents = torch.randn(10, 4, 16, 16).half()
    return Lesson(scenes, latents, teacher.eval().requires_grad_(False), encoder, tokenizer)  # type: ignore[arg-type]


def settings(**kwargs: Any) -> dict[str, Any]:
    return {"max_steps": 20, "lr": 1e-3, "seed": 0, "batch_size": 8, "compile": False, **kwargs}


def test_the_scheduler_goes_through_the_students_times() -> None:
    from experiments.emoji_world.denoiser import new_scheduler
    from experiments.emoji_world.student import USED, new_turbo_scheduler

    scheduler = new_turbo_scheduler()
    torch.testing.assert_close(scheduler.alphas_cumprod, new_scheduler().alphas_cumprod)
    for steps in (1, 2, 4):
        scheduler.set_timesteps(steps)
        times = (scheduler.timesteps + 1) // 50
        assert times.tolist() == list(USED[:: 4 // steps])


def test_student_and_scheduler_agree_on_x0(lesson: Any) -> None:
    from experiments.emoji_world.student import GRID, ConsistencyStage, new_turbo_scheduler

    stage = ConsistencyStage(lesson, **settings())
    _, noise, _, _, embeds = stage.batch(np.random.default_rng(0))
    times = torch.full((8,), GRID)
    with torch.no_grad():
        expected = stage.denoised(noise[0], times, embeds)
        output = stage.unet(noise[0], 50 * times - 1, embeds).sample
    scheduler = new_turbo_scheduler()
    scheduler.set_timesteps(1)
    result = scheduler.step(output, scheduler.timesteps[0], noise[0], return_dict=False)[1]
    # The same formula; x0 is around 15, in float32.
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-4)


def test_hops_fall_from_the_whole_trajectory_to_one_time(lesson: Any) -> None:
    from experiments.emoji_world.student import GRID, ConsistencyStage

    stage = ConsistencyStage(lesson, **settings())
    hops = []
    for stage.step in range(20):
        hops.append(stage.hop())
    assert hops[0] == GRID and hops[-1] == 1 and hops == sorted(hops, reverse=True)


def test_the_first_target_is_the_guided_teachers_x0(lesson: Any) -> None:
    from experiments.emoji_world.student import ConsistencyStage

    stage = ConsistencyStage(lesson, **settings())
    clean, noise, times, uniform, embeds = stage.batch(np.random.default_rng(1))
    noisy, (alpha, sigma) = stage.noisy(clean, noise[0], times), lesson.signal(times)
    eps, x0 = stage.taught(noisy, alpha, sigma, 50 * times - 1, embeds)
    torch.testing.assert_close(alpha * x0 + sigma * eps, noisy, rtol=1e-4, atol=1e-4)
    stage.denoised = lambda *_, **__: x0  # type: ignore[method-assign]
    assert float(stage.loss(clean, noise, times, uniform, embeds)["mse"]) == 0


@pytest.mark.parametrize("step", [0, 10, 19])
def test_consistency_trains_the_student_alone(lesson: Any, step: int) -> None:
    from experiments.emoji_world.student import ConsistencyStage

    stage = ConsistencyStage(lesson, **settings())
    stage.step = step
    loss = stage.loss(*stage.batch(np.random.default_rng(2)))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in stage.unet.parameters())
    assert all(p.grad is None for p in lesson.teacher.parameters())
    assert {name.split(".")[0] for name in stage.state_dict()} == {"unet"}


def test_matching_moves_the_student_towards_the_teacher(lesson: Any) -> None:
    from experiments.emoji_world.student import MatchingStage

    stage = MatchingStage(lesson, **settings())
    values = stage.loss(*stage.batch(np.random.default_rng(3)))
    values["loss"].backward()
    assert torch.isfinite(values["loss"]) and float(values["score"].detach()) > 0
    assert all(p.grad is not None for p in (*stage.unet.parameters(), *stage.fake.parameters()))
    assert {name.split(".")[0] for name in stage.state_dict()} == {"unet", "fake"}


def test_contact_sheets_show_every_noun_tint_count_and_a_pair() -> None:
    from experiments.emoji_world import words
    from experiments.emoji_world.sheet import sheet_prompts, tiled

    rows = sheet_prompts()
    assert len(rows) == len(words.NOUNS) and {len(row) for row in rows} == {12}
    assert rows[0][0] == "a cat" and "a purple cat" in rows[0] and "four cats" in rows[0]
    assert sum(" above " in prompt for row in rows for prompt in row) == 16
    assert tiled(torch.rand(24, 3, 8, 8), 12).size == (96, 16)


def test_a_missing_student_is_named(tmp_path: Path) -> None:
    from experiments.emoji_world.turbo import export
    from sgool.errors import SgoolError

    with pytest.raises(SgoolError, match="run the stage `consistency` first"):
        export(tmp_path, tmp_path / "assets")


def test_the_student_s_card_states_its_bars() -> None:
    from experiments.emoji_world.card import render_student
    from experiments.emoji_world.evaluate import student_bars

    shares = {"base, 50 steps": 0.87, "student, 1": 0.73, "student, 2": 0.8, "student, 4": 0.82}
    table = {name: {"Colours": {"n": 40, "all": all_}, "all": {"n": 40, "all": all_}} for name, all_ in shares.items()}
    bars = student_bars(table)
    assert [(row["name"], row["met"]) for row in bars] == [
        ("student, 4: all that is stated", False),
        ("student, 1: all that is stated", True),
    ]
    text = render_student(table, {"matching": {"steps": 1600, "minutes": 31.2}, "vae": {}}, 16.4, bars)
    assert "16.4 MiB" in text and "| matching | 1600 | 31 |" in text and "| student, 2 | 0.80 | 0.800 |" in text
    assert "- student, 4: all that is stated: 0.820, bar 0.830, **not met**." in text
