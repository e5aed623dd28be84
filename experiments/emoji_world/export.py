"""Writes the trained networks in public layouts: diffusers' pipeline, open_clip's folders, the scene reader's."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer

from experiments.emoji_world.captions import all_words
from experiments.emoji_world.clip import CONFIGS, new_clip
from experiments.emoji_world.common import trained_state
from experiments.emoji_world.denoiser import new_scheduler, new_unet
from experiments.emoji_world.reader import new_reader
from sgool.errors import SgoolError
from sgool.models.vocabulary import WORDS

LIMIT_MIB = 64


class Part(NamedTuple):
    """What a stage made in the work folder, and where it goes in the assets."""

    made: str
    to: str


_PARTS = {
    "vae": Part("pipeline/vae", "vae"),
    "text_encoder": Part("pipeline/text_encoder", "text_encoder"),
    "denoiser": Part("unet/last.ckpt", "unet"),
    "guide": Part("guide/last.ckpt", "guide"),
    "judge": Part("judge/last.ckpt", "judge"),
    "reader": Part("reader/refreshed.pt", "reader"),
}


def export(work: Path, assets: Path) -> float:
    """Writes everything that is to be committed (the model card apart) as float16 safetensors.

    What has not been trained in the work folder (`--init` trains only some of it) stays as it is in ``assets``.

    Args:
        work: Work folder with finished stages.
        assets: ``sgool/assets/emoji_world``.

    Returns:
        The size of ``assets`` in MiB, prompts and card included.

    Raises:
        SgoolError: It is more than 64 MiB, or something is in neither folder.
    """
    found = {stage: (work / part.made).exists() or (assets / part.to).exists() for stage, part in _PARTS.items()}
    missing = [stage for stage in _PARTS if not found[stage]]
    if missing:
        raise SgoolError(f"{work}: expected all stages to be finished, got nothing of {', '.join(missing)}; run these")
    if (work / _PARTS["denoiser"].made).exists():
        _export_pipeline(work, assets)
    for name, tokenizer in (("guide", "tok_clip"), ("judge", "tok_wp")):
        if (work / _PARTS[name].made).exists():
            _export_clip(work, assets, name, tokenizer)
    if (work / _PARTS["reader"].made).exists():
        reader = new_reader()
        reader.load_state_dict(trained_state(work / "reader", "reader."))
        reader.save_pretrained(assets / "reader")
    return check_size(assets)


def check_size(assets: Path) -> float:
    """The size of a folder in MiB; SgoolError above the limit."""
    size = sum(f.stat().st_size for f in assets.rglob("*") if f.is_file()) / 2**20
    if size > LIMIT_MIB:
        raise SgoolError(f"{assets}: expected at most {LIMIT_MIB} MiB, got {size:.1f} MiB; make the networks smaller")
    return size


def _export_pipeline(work: Path, assets: Path) -> None:
    unet = new_unet()
    unet.load_state_dict(trained_state(work / "unet", "unet."))
    folder = work / "pipeline"
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer")),
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    save_pipeline(pipeline, assets)


def save_pipeline(pipeline: StableDiffusionPipeline, assets: Path) -> None:
    """A pipeline as float16 safetensors that loads in float32, with the list of words that it has seen."""
    pipeline.to(torch.float16).save_pretrained(assets, safe_serialization=True)
    # transformers loads in the type that the configuration names: with float16 there, the text encoder and the float32
    # UNet of `StableDiffusionPipeline.from_pretrained` do not fit together.
    for file in (assets / part / "config.json" for part in ("vae", "unet", "text_encoder")):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a folder of this machine
        if file.parent.name == "text_encoder":
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (assets / WORDS).write_text("".join(f"{word}\n" for word in all_words()), encoding="utf-8")


def _export_clip(work: Path, assets: Path, name: str, tokenizer_folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(work / tokenizer_folder))
    model = new_clip(name, len(tokenizer))
    model.load_state_dict(trained_state(work / name, "clip."))
    folder = assets / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config = copy.deepcopy(CONFIGS[name])
    config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
