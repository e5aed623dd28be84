"""The training stages with their settings; each resumes from its last checkpoint in the work folder.

Work folder: ``tok_clip``, ``tok_wp``, ``vae``, ``guide``, ``unet``, ``reader``, ``judge`` (checkpoints and logs),
``pipeline`` (finished parts in diffusers' layout), ``latents.pt``.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.tokenizer import HFTokenizer
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.emoji_world import fetch as emoji
from experiments.emoji_world.autoencoder import AutoencoderStage, fold_latent_statistics, new_autoencoder
from experiments.emoji_world.clip import ClipStage
from experiments.emoji_world.common import REFRESHED, fit, load_checkpoint, save_atomically, scenes_batch, trained_state
from experiments.emoji_world.denoiser import DenoiserStage, encode_scenes
from experiments.emoji_world.reader import ReaderStage
from experiments.emoji_world.scenes import Painter, training_scene
from experiments.emoji_world.text_encoder import text_encoder_from_clip
from experiments.emoji_world.tokenizers import CONTEXT_LENGTH, new_clip_tokenizer, new_wordpiece_tokenizer
from sgool.errors import SgoolError

#: Steps of each training stage.
STEPS = {"vae": 10_000, "guide": 2300, "denoiser": 13_400, "reader": 2200, "judge": 2000}
STEPS |= {"consistency": 2000, "matching": 1600}
#: Of the guide's steps: those before the text encoder is taken and the autoencoder's distortions begin.
GUIDE_EARLY = 1697
#: Of the reader's steps: those before colour channels are exchanged, at half the learning rate.
READER_SHAPES = 1500
#: Of the judge's steps: those before the autoencoder's distortions begin.
JUDGE_PAINTED = 1000
#: Of the matching's steps: those before the first of the two weights that are averaged.
MATCHING_EARLY = 600
LATENTS = 60_000


@dataclass(frozen=True)
class Setup:
    """What the command line says.

    Attributes:
        work: Folder of checkpoints and logs.
        emoji: Folder of the emoji, if it is not the work folder.
        steps: Steps of each training stage instead of `STEPS`, for trials.
        seed_offset: Added to the seeds of training.
        init: Exported models of an earlier edition whose autoencoder and denoiser are trained further, and whose text
            encoder is kept.
    """

    work: Path
    emoji: Path | None = None
    steps: int | None = None
    seed_offset: int = 0
    init: Path | None = None

    def painter(self) -> Painter:
        """Paints with the emoji of this setup."""
        return Painter(emoji.find_emoji(self.emoji or self.work))

    def settings(self, stage: str, lr: float, seed: int, **kwargs: int) -> dict:
        """Arguments of a training stage."""
        return {"max_steps": self.total(stage), "lr": lr, "seed": seed + self.seed_offset, "warmup": 100, **kwargs}

    def total(self, stage: str) -> int:
        """Steps of a stage."""
        return self.steps or STEPS[stage]

    def part(self, stage: str, steps: int) -> int:
        """A point within a stage, scaled like its steps (at least one)."""
        return max(1, steps * self.total(stage) // STEPS[stage])

    def needed(self, path: str, stage: str) -> Path:
        """A result of an earlier stage.

        Raises:
            SgoolError: It is not there.
        """
        if not (self.work / path).exists():
            raise SgoolError(f"expected {self.work / path}, which the stage `{stage}` writes; run that first")
        return self.work / path


def fetch(setup: Setup) -> None:
    """The emoji into the work folder, unless --emoji says where they are."""
    if setup.emoji is not None:
        emoji.find_emoji(setup.emoji)
    else:
        emoji.fetch(setup.work)


def tokenizers(setup: Setup) -> None:
    """Both vocabularies, learnt from captions."""
    for name, learn in (("tok_clip", new_clip_tokenizer), ("tok_wp", new_wordpiece_tokenizer)):
        if not (setup.work / name / "tokenizer.json").is_file():
            learn(setup.work / name)


def vae(setup: Setup) -> None:
    """The autoencoder, its latents scaled to unit variance per channel."""
    painter, folder = setup.painter(), setup.work / "vae"
    stage = AutoencoderStage(painter, batch_size=8, **setup.settings("vae", 2e-3 if setup.init is None else 1e-3, 1))
    if setup.init is not None:
        stage.vae.load_state_dict(AutoencoderKL.from_pretrained(setup.init / "vae").state_dict())
    fit(stage, folder)
    model = new_autoencoder().eval()
    model.load_state_dict(trained_state(folder, "vae."))
    _, images = scenes_batch(painter, np.random.default_rng(5 + setup.seed_offset), 512, training_scene)
    fold_latent_statistics(model, images * 2 - 1)
    model.save_pretrained(setup.work / "pipeline" / "vae")


def guide(setup: Setup) -> None:
    """The guidance CLIP on half 0; keeps a checkpoint of when the text encoder is taken."""
    early = setup.part("guide", GUIDE_EARLY)
    settings = setup.settings("guide", 1.2e-3, 2)
    tokenizer = _tokenizer(setup, "tok_clip")
    stage = ClipStage("guide", tokenizer, setup.painter(), half=0, vae=finished_vae(setup), vae_from=early, **settings)
    fit(stage, setup.work / "guide", snapshots={early: "early.ckpt"})


def text_encoder(setup: Setup) -> None:
    """The guide's text tower, as it was at the snapshot, and its tokenizer; with --init, those of that edition."""
    if setup.init is not None:
        for part in ("text_encoder", "tokenizer"):
            shutil.copytree(setup.init / part, setup.work / "pipeline" / part, dirs_exist_ok=True)
        return
    state = load_checkpoint(setup.needed("guide/early.ckpt", "guide"))["state_dict"]
    tower = {k.removeprefix("clip."): v for k, v in state.items() if k.startswith("clip.")}
    tokenizer = CLIPTokenizer.from_pretrained(str(setup.needed("tok_clip", "tokenizers")))
    text_encoder_from_clip(tower, tokenizer).save_pretrained(setup.work / "pipeline" / "text_encoder")
    tokenizer.save_pretrained(setup.work / "pipeline" / "tokenizer")


def denoiser(setup: Setup) -> None:
    """The UNet on the latents of 60,000 training scenes of both halves."""
    text = CLIPTextModel.from_pretrained(setup.needed("pipeline/text_encoder", "text_encoder"))
    tokenizer = CLIPTokenizer.from_pretrained(str(setup.needed("pipeline/tokenizer", "text_encoder")))
    file, seed = setup.work / "latents.pt", 11 + setup.seed_offset
    scenes, latents = encode_scenes(finished_vae(setup), setup.painter(), LATENTS, seed, file)
    settings = setup.settings("denoiser", 1e-3, 4, warmup=300, batch_size=32)
    stage = DenoiserStage(scenes, latents, text.eval().requires_grad_(False), tokenizer, **settings)
    if setup.init is not None:
        stage.unet.load_state_dict(UNet2DConditionModel.from_pretrained(setup.init / "unet").state_dict())
    fit(stage, setup.work / "unet", ema=0.998)


def reader(setup: Setup) -> None:
    """The scene reader on half 1: first as it is, then from there with exchanged colour channels."""
    painter, folder = setup.painter(), setup.work / "reader"
    settings = setup.settings("reader", 2e-3, 6)
    shapes = setup.part("reader", READER_SHAPES)
    first = ReaderStage(painter, vae=finished_vae(setup), recolour=False, **{**settings, "max_steps": shapes})
    fit(first, folder / "shapes")
    rest = max(1, settings["max_steps"] - shapes)
    second = ReaderStage(painter, vae=finished_vae(setup), **{**settings, "max_steps": rest, "lr": 1e-3})
    second.load_state_dict(load_checkpoint(folder / "shapes" / "last.ckpt")["state_dict"])
    fit(second, folder / "recolour")
    save_atomically(second.state_dict(), folder / REFRESHED)


def judge(setup: Setup) -> None:
    """The judge CLIP on half 1, with the autoencoder's distortions for the last third."""
    settings = setup.settings("judge", 1.2e-3, 3, warmup=200)
    late = setup.part("judge", JUDGE_PAINTED)
    tokenizer = _tokenizer(setup, "tok_wp")
    stage = ClipStage("judge", tokenizer, setup.painter(), half=1, vae=finished_vae(setup), vae_from=late, **settings)
    fit(stage, setup.work / "judge")


def _tokenizer(setup: Setup, name: str) -> HFTokenizer:
    return HFTokenizer(str(setup.needed(name, "tokenizers")), context_length=CONTEXT_LENGTH)


def finished_vae(setup: Setup) -> AutoencoderKL:
    """The finished autoencoder, frozen."""
    model = AutoencoderKL.from_pretrained(setup.needed("pipeline/vae", "vae")).eval().requires_grad_(False)
    return model.to(memory_format=torch.channels_last)
