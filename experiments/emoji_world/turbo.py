"""The few-step student's stages: both ways to distil it, its pipeline, its numbers.

Work folder: ``consistency``, ``matching`` (checkpoints and logs; `experiments.emoji_world.student`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.emoji_world import distil
from experiments.emoji_world.common import CHECKPOINT, REFRESHED, fit, load_checkpoint, save_atomically, trained_state
from experiments.emoji_world.denoiser import encode_scenes, new_unet
from experiments.emoji_world.export import save_pipeline
from experiments.emoji_world.sheet import ASSETS, Sheet, accuracy, draw
from experiments.emoji_world.stages import LATENTS, MATCHING_EARLY, Setup, finished_vae
from experiments.emoji_world.student import ConsistencyStage, Lesson, MatchingStage, new_turbo_scheduler
from sgool.errors import SgoolError

#: Stage -> folder of its checkpoints; the first that is there is exported.
STUDENTS = ("matching", "consistency")
#: Steps and guidance of the measurements: the base as it is used, the student in 1, 2 and 4 steps.
BASE = {"num_inference_steps": 50, "guidance_scale": 4.0}
FEW = (1, 2, 4)

logger = logging.getLogger(__name__)


def lesson(setup: Setup) -> Lesson:
    """The finished denoiser, and what it learnt from."""
    teacher = new_unet()
    setup.needed("unet/last.ckpt", "denoiser")
    teacher.load_state_dict(trained_state(setup.work / "unet", "unet."))
    text = CLIPTextModel.from_pretrained(setup.needed("pipeline/text_encoder", "text_encoder"))
    tokenizer = CLIPTokenizer.from_pretrained(str(setup.needed("pipeline/tokenizer", "text_encoder")))
    scenes, latents = encode_scenes(
        finished_vae(setup), setup.painter(), LATENTS, 11 + setup.seed_offset, setup.work / "latents.pt"
    )
    teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Lesson(scenes, latents, teacher, text.eval().requires_grad_(False), tokenizer)


def consistency(setup: Setup) -> None:
    """The student by consistency distillation."""
    fit_consistency(setup, lesson(setup))


def matching(setup: Setup) -> None:
    """The student of `consistency`, moved towards the teacher's distribution."""
    fit_matching(setup, lesson(setup))


def fit_consistency(setup: Setup, lesson: distil.Lesson) -> None:
    """Trains the student of any world by consistency distillation."""
    stage = ConsistencyStage(lesson, **setup.settings("consistency", 5e-4, 21))
    fit(stage, setup.work / "consistency", ema=0.99)


def fit_matching(setup: Setup, lesson: distil.Lesson) -> None:
    """Moves the student of any world, as `fit_consistency` left it, towards the teacher's distribution.

    What counts is the mean of the weights after `MATCHING_EARLY` steps and at the end: the former are the better ones
    in four steps, the latter in one.
    """
    stage = MatchingStage(lesson, **setup.settings("matching", 1e-4, 22))
    setup.needed("consistency/last.ckpt", "consistency")
    stage.student.load_state_dict(trained_state(setup.work / "consistency", f"{lesson.network}."))
    folder, early = setup.work / "matching", setup.part("matching", MATCHING_EARLY)
    fit(stage, folder, ema=0.98, snapshots={early: "early.ckpt"})
    states = [load_checkpoint(folder / name)["state_dict"] for name in ("early.ckpt", CHECKPOINT)]
    save_atomically({key: (states[0][key] + states[1][key]) / 2 for key in states[1]}, folder / REFRESHED)


def student_folder(work: Path, student: str | None = None) -> Path:
    """The checkpoints of the named student; by default of "matching", or else of "consistency".

    Raises:
        SgoolError: It has not been trained.
    """
    found = [name for name in ([student] if student else STUDENTS) if (work / name / "last.ckpt").is_file()]
    if not found:
        raise SgoolError(f"{work}: expected a trained student; run the stage `consistency` first")
    return work / found[0]


def export(work: Path, assets: Path, student: str | None = None) -> None:
    """Writes the student as a diffusers pipeline that needs no arguments but few steps and guidance 1.

    Args:
        work: Work folder.
        assets: ``sgool/assets/emoji_world_turbo``.
        student: "consistency" or "matching"; by default the latter, if it has been trained.

    Raises:
        SgoolError: No student has been trained.
    """
    trained = student_folder(work, student)
    unet = new_unet()
    unet.load_state_dict(trained_state(trained, "unet."))
    folder = work / "pipeline"
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer")),
        unet=unet,
        scheduler=new_turbo_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    save_pipeline(pipeline, assets)


def measure(
    base: Path,
    student: Path,
    results: Path,
    prompts: int | None = None,
    *,
    assets: Path = ASSETS,
    sampling: Mapping[str, float] = BASE,
    extra: Mapping[str, float] | None = None,
    sheet: Sheet | None = None,
) -> dict[str, dict]:
    """Scene accuracy of base and student on the held-out prompts; ``turbo.json`` and a contact sheet in ``results``.

    Args:
        base: The base's pipeline.
        student: The student's pipeline.
        results: Folder for the results.
        prompts: Of the held-out prompts, the first so many (None: all).
        assets: Has the prompt sets and the reader.
        sampling: The base's arguments.
        extra: Further arguments for the student.
        sheet: Of the student in 4 steps; by default this world's.
    """
    steps = sampling["num_inference_steps"]
    table: dict[str, dict] = {f"base, {steps} steps": accuracy(base, sampling, prompts, assets)}
    for number in FEW:
        few = {"num_inference_steps": number, "guidance_scale": 1.0, **(extra or {})}
        table[f"student, {number}"] = accuracy(student, few, prompts, assets)
        logger.info("student, %d: %s", number, table[f"student, {number}"]["all"])
    results.mkdir(parents=True, exist_ok=True)
    (results / "turbo.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    four = {"num_inference_steps": 4, "guidance_scale": 1.0, **(extra or {})}
    draw(student, four, results / "turbo.png", sheet)
    return table
