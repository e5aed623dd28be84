"""The training stages of the emoji scenes; each goes on from its last checkpoint in the work folder.

Work folder: ``tok_clip``, ``vae`` (checkpoints and logs), ``pipeline`` (finished parts in diffusers' layout).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from diffusers import AutoencoderKL

from experiments.emoji_scenes.autoencoder import fold_latent_statistics, new_autoencoder
from experiments.emoji_scenes.captions import caption
from experiments.emoji_scenes.scenes import Painter, random_scene, training_scene
from experiments.emoji_world import fetch as emoji
from experiments.emoji_world.autoencoder import AutoencoderStage
from experiments.emoji_world.common import fit, scenes_batch, trained_state
from experiments.emoji_world.stages import Setup as WorldSetup
from experiments.emoji_world.stages import fetch as fetch  # the same stage
from experiments.emoji_world.tokenizers import new_clip_tokenizer, new_wordpiece_tokenizer

#: Steps of each training stage.
STEPS = {"vae": 12_000}


@dataclass(frozen=True)
class Setup(WorldSetup):
    """What the command line says."""

    def painter(self) -> Painter:  # type: ignore[override]
        """Paints with the emoji of this setup."""
        return Painter(emoji.find_emoji(self.emoji or self.work), seed=self.seed_offset)

    def total(self, stage: str) -> int:
        """Steps of a stage."""
        return self.steps or STEPS[stage]


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
