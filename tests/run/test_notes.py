"""What a run says before it begins."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sgool import Chain, PromptSeed, Vanilla
from sgool.cli import app
from sgool.run.config import load_config, to_plain
from sgool.run.interrupt import Interrupt
from sgool.run.notes import cut_off, model_line, note_on_bfloat16, work_left


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"path": "emoji_world", "width": None, "height": None}, "emoji_world (64 x 64 pixels), the small model that"),
        (
            {"path": "CompVis/stable-diffusion-v1-4", "width": 256, "height": 320},
            "CompVis/stable-diffusion-v1-4 at 256 x 320 pixels",
        ),
        ({"path": "/models/mine", "width": None, "height": None}, "/models/mine"),
        ({"path": "/models/mine", "width": 64, "height": None}, "/models/mine at a width of 64 pixels"),
    ],
)
def test_which_model_runs(models: dict[str, Any], words: str) -> None:
    line = model_line(models)
    assert line.startswith(words) and ("models=sd14" in line) == (models["path"] == "emoji_world")


@pytest.mark.parametrize(
    ("machine", "capability", "device", "slow"),
    [
        ("x86_64", "AVX2", "cpu", True),
        ("AMD64", "DEFAULT", "cpu", True),
        ("x86_64", "AVX512", "cpu", False),
        ("x86_64", "AVX2", "cuda", False),
        ("aarch64", "DEFAULT", "cpu", False),  # bfloat16 may be fast there, and torch does not say
    ],
)
def test_bfloat16_on_a_processor_that_is_slow_at_it(
    monkeypatch: pytest.MonkeyPatch, machine: str, capability: str, device: str, slow: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    models = {"dtype": "float32", "vae_dtype": None}
    for config, key, mended in (
        ({"models": models, "trainer": {"precision": "bf16-mixed"}}, "trainer.precision=bf16-mixed", "32-true"),
        ({"models": {"dtype": "bfloat16"}, "trainer": {"precision": "32-true"}}, "models.dtype=bfloat16", "float32"),
    ):
        note = note_on_bfloat16(config, torch.device(device))
        name = key.partition("=")[0]
        assert (note.startswith(f"{key}: this") and note.endswith(f"use {name}={mended}")) if slow else not note
    assert not note_on_bfloat16({"models": models, "trainer": {"precision": "32-true"}}, torch.device(device))


def test_the_first_line_names_the_model_and_notes_say_what_to_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    (tmp_path / "prompts.txt").write_text("an astronaut riding a horse\na green cat\n")
    fast = ["sampler.num_inference_steps=2", "models.device=cpu", "methods=[vanilla]", "logger=none"]
    fast += ["trainer.precision=bf16-mixed"]
    where = [f"data.prompts={tmp_path / 'prompts.txt'}", f"run_dir={tmp_path / 'run'}"]
    lines = CliRunner().invoke(app, ["fit", *fast, *where]).stdout.splitlines()
    assert lines[0].startswith("model: emoji_world (64 x 64 pixels), the small model that ships with sgool")
    noted = [line for line in lines if "has never seen" in line]
    assert len(noted) == 1 and "astronaut, riding, horse (in 1 of 2 prompts)" in noted[0]
    assert len([line for line in lines if "bfloat16 is many times slower" in line]) == 1
    assert lines[-1] == f"next: sgool report {tmp_path / 'run'}"


def test_a_trainer_warns_of_words_that_the_model_has_never_seen() -> None:
    import lightning as L

    chain = Chain.from_pretrained("emoji_world", num_inference_steps=1, guidance_scale=1)
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    with pytest.warns(UserWarning, match="words that emoji_world has never seen: astronaut"):
        trainer.predict(Vanilla(chain, pairs=[PromptSeed("an astronaut")]))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="words that")
        trainer.predict(Vanilla(chain, pairs=[PromptSeed("a green cat")]))


def test_costs_of_the_methods_in_units_of_plain_sampling() -> None:
    config = to_plain(load_config(["methods=[vanilla,doodl,clip_guidance,best_of_n]"]))
    updates = config["optimization"]["num_optimization_steps"]
    costs = {part.method: part.cost for part in work_left(config, lambda method: 2)}
    assert costs == {"vanilla": 1, "doodl": 3 * updates + 1, "clip_guidance": 3, "best_of_n": 2 * updates + 1}
    config["methods"] += ["fk_steering"]
    config["optimization"]["candidates"] = 5
    costs = {part.method: part.cost for part in work_left(config, lambda method: 2)}
    assert (costs["doodl"], costs["fk_steering"]) == (3 * updates + 6, 4)
    config["budget"]["calls"] = 40 * config["sampler"]["num_inference_steps"]
    costs = {part.method: part.cost for part in work_left(config, lambda method: 2)}
    assert costs == {"vanilla": 1, "doodl": 40, "clip_guidance": 3, "best_of_n": 40, "fk_steering": 40}
    # The steps of the model's own pipeline are not known yet; the methods still cost alike.
    config["sampler"]["num_inference_steps"] = None
    costs = {part.method: part.cost for part in work_left(config, lambda method: 2)}
    assert costs["doodl"] == costs["best_of_n"] == costs["fk_steering"] > 1


def test_one_sentence_for_a_prompt_with_each_text_that_is_lost_once() -> None:
    cuts = {"the pipeline": ["c d", ""], "the judge CLIP": ["d", ""], "the guide CLIP": ["c d", ""]}
    assert cut_off(["a b c d", "a"], cuts) == [
        "over-long prompt 'a b c d': the pipeline and the guide CLIP do not see 'c d'; the judge CLIP does not see 'd'"
    ]


def test_a_signal_is_acknowledged_while_it_is_handled_and_once() -> None:
    told: list[str] = []
    with Interrupt() as interrupt:
        interrupt.on_request = told.append
        os.kill(os.getpid(), signal.SIGINT)
        assert told == ["SIGINT"]
        os.kill(os.getpid(), signal.SIGINT)
    assert told == ["SIGINT"]
