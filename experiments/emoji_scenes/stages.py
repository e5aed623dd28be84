"""The training stages of the emoji scenes; each goes on from its last checkpoint in the work folder.

Work folder: ``tok_clip``, ``tok_wp``, ``vae``, ``guide``, ``transformer``, ``reader``, ``judge``, ``saliency``,
``consistency``, ``matching`` (checkpoints, logs), ``pipeline`` (finished parts in diffusers' layout), ``latents.pt``.
Settings of the stages behind ``vae`` are guesses: they have only been run for a few steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from open_clip.tokenizer import HFTokenizer
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from experiments.emoji_scenes import words as scene_words
from experiments.emoji_scenes.autoencoder import fold_latent_statistics, new_autoencoder
from experiments.emoji_scenes.captions import caption
from experiments.emoji_scenes.clip import SceneClipStage
from experiments.emoji_scenes.denoiser import FlowStage, new_transformer
from experiments.emoji_scenes.scenes import Painter, Scene, random_scene, training_scene
from experiments.emoji_scenes.student import FlowLesson
from experiments.emoji_world import fetch as emoji
from experiments.emoji_world import words
from experiments.emoji_world.autoencoder import AutoencoderStage
from experiments.emoji_world.common import fit, load_checkpoint, scenes_batch, trained_state
from experiments.emoji_world.denoiser import encode_scenes
from experiments.emoji_world.reader import TINTS, ReaderStage
from experiments.emoji_world.stages import Setup as WorldSetup
from experiments.emoji_world.stages import fetch as fetch  # the same stage
from experiments.emoji_world.stages import finished_vae
from experiments.emoji_world.text_encoder import text_encoder_from_clip
from experiments.emoji_world.tokenizers import CONTEXT_LENGTH, new_clip_tokenizer, new_wordpiece_tokenizer
from experiments.emoji_world.turbo import fit_consistency, fit_matching
from experiments.saliency_emoji.train import SaliencyStage
from sgool.metrics import SceneReader

#: Steps of each training stage.
STEPS = {"vae": 12_000, "guide": 6000, "denoiser": 20_000, "reader": 5000, "judge": 5000, "saliency": 1500}
STEPS |= {"consistency": 2000, "matching": 600}
#: Of the guide's steps: those before the text encoder is taken and the autoencoder's distortions begin.
GUIDE_EARLY = 4000
#: Of the judge's steps: those before the autoencoder's distortions begin.
JUDGE_PAINTED = 3000
LATENTS = 60_000


@dataclass(frozen=True)
class Setup(WorldSetup):
    """What the command line says."""

    def painter(self) -> Painter:  # type: ignore[override]
        """Paints with the emoji of this setup."""
        return Painter(emoji.find_emoji(self.emoji or self.work), seed=self.seed_offset)

    def total(self, stage: str) -> int:
        """Steps of a stage."""
        return self.steps or STEPS[stage]

    def part(self, stage: str, steps: int) -> int:
        """A point within a stage, scaled like its steps (at least one)."""
        return max(1, steps * self.total(stage) // STEPS[stage])


def tokenizers(setup: Setup) -> None:
    """Both vocabularies, learnt from captions."""
    rng = np.random.default_rng(0)
    texts = [caption(random_scene(rng), rng).text for _ in range(40_000)]
    for name, learn in (("tok_clip", new_clip_tokenizer), ("tok_wp", new_wordpiece_tokenizer)):
        if not (setup.work / name / "tokenizer.json").is_file():
            learn(setup.work / name, texts)


def vae(setup: Setup) -> None:
    """The autoencoder, its latents scaled to one variance per channel."""
    painter, folder = setup.painter(), setup.work / "vae"
    stage = AutoencoderStage(painter, vae=new_autoencoder(), sample=training_scene, **setup.settings("vae", 2e-3, 1))
    fit(stage, folder)
    model: AutoencoderKL = new_autoencoder().eval()
    model.load_state_dict(trained_state(folder, "vae."))
    _, images = scenes_batch(painter, np.random.default_rng(5 + setup.seed_offset), 256, training_scene)
    fold_latent_statistics(model, images * 2 - 1)
    model.save_pretrained(setup.work / "pipeline" / "vae")


def guide(setup: Setup) -> None:
    """The guidance CLIP on half 0; keeps a checkpoint of when the text encoder is taken."""
    early = setup.part("guide", GUIDE_EARLY)
    fit(_clip(setup, "guide", 0, early, 2), setup.work / "guide", snapshots={early: "early.ckpt"})


def text_encoder(setup: Setup) -> None:
    """The guide's text tower with its projection, as it was at the snapshot, and its tokenizer."""
    state = load_checkpoint(setup.needed("guide/early.ckpt", "guide"))["state_dict"]
    tower = {k.removeprefix("clip."): v for k, v in state.items() if k.startswith("clip.")}
    tokenizer = CLIPTokenizer.from_pretrained(str(setup.needed("tok_clip", "tokenizers")))
    text = text_encoder_from_clip(tower, tokenizer, projection=True)
    text.save_pretrained(setup.work / "pipeline" / "text_encoder")
    tokenizer.save_pretrained(setup.work / "pipeline" / "tokenizer")


def denoiser(setup: Setup) -> None:
    """The transformer on the latents of 60,000 training scenes of both halves."""
    scenes, latents, text, tokenizer = _known(setup)
    settings = setup.settings("denoiser", 1e-3, 4, warmup=500, batch_size=32)
    fit(FlowStage(scenes, latents, text, tokenizer, **settings), setup.work / "transformer", ema=0.998)


def _known(setup: Setup) -> tuple[list[Scene], Tensor, CLIPTextModelWithProjection, CLIPTokenizer]:
    """Scenes, their scaled latents, the frozen text encoder and its tokenizer: what denoiser and student learn from."""
    text = CLIPTextModelWithProjection.from_pretrained(setup.needed("pipeline/text_encoder", "text_encoder"))
    tokenizer = CLIPTokenizer.from_pretrained(str(setup.needed("pipeline/tokenizer", "text_encoder")))
    model, file = finished_vae(setup), setup.work / "latents.pt"
    scenes, latents = encode_scenes(
        model, setup.painter(), LATENTS, 11 + setup.seed_offset, file, sample=training_scene
    )
    latents = (latents - model.config.shift_factor) * model.config.scaling_factor
    return scenes, latents, text.eval().requires_grad_(False), tokenizer


def consistency(setup: Setup) -> None:
    """The few-step student by consistency distillation."""
    fit_consistency(setup, _lesson(setup))


def matching(setup: Setup) -> None:
    """The student of `consistency`, moved towards the teacher's distribution."""
    fit_matching(setup, _lesson(setup))


def _lesson(setup: Setup) -> FlowLesson:
    setup.needed("transformer/last.ckpt", "denoiser")
    scenes, latents, text, tokenizer = _known(setup)
    teacher = new_transformer(text.config.hidden_size, text.config.projection_dim)
    teacher.load_state_dict(trained_state(setup.work / "transformer", "transformer."))
    return FlowLesson(scenes, latents, teacher.eval().requires_grad_(False), text, tokenizer)


def judge(setup: Setup) -> None:
    """The judge CLIP on half 1."""
    fit(_clip(setup, "judge", 1, setup.part("judge", JUDGE_PAINTED), 3), setup.work / "judge")


def reader(setup: Setup) -> None:
    """The scene reader on half 1, colours exchanged in a quarter of the images."""
    settings = setup.settings("reader", 2e-3, 6, batch_size=24)
    reader = new_scene_reader()
    stage = ReaderStage(setup.painter(), reader=reader, sample=training_scene, vae=finished_vae(setup), **settings)
    fit(stage, setup.work / "reader")


def new_scene_reader() -> SceneReader:
    """An untrained reader of this world's words; grounds and plain backgrounds are its backgrounds."""
    grounds = [*scene_words.GROUNDS, *words.BACKGROUNDS]
    return SceneReader(nouns=list(words.NOUNS), tints=list(TINTS), backgrounds=grounds)


def saliency(setup: Setup) -> None:
    """A small TranSalNet on the subjects' masks."""
    torch.manual_seed(8 + setup.seed_offset)  # of the first weights
    settings = setup.settings("saliency", 2e-3, 8, batch_size=16)
    stage = SaliencyStage(setup.painter(), sample=training_scene, vae=finished_vae(setup), **settings)
    fit(stage, setup.work / "saliency", ema=0.99)


def _clip(setup: Setup, name: str, half: int, vae_from: int, seed: int) -> SceneClipStage:
    folder = setup.needed("tok_clip" if name == "guide" else "tok_wp", "tokenizers")
    tokenizer = HFTokenizer(str(folder), context_length=CONTEXT_LENGTH)
    settings = setup.settings(name, 1.2e-3, seed)
    return SceneClipStage(
        name, tokenizer, setup.painter(), half=half, crops=32, vae=finished_vae(setup), vae_from=vae_from, **settings
    )
