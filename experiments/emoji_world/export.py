"""Writes the trained networks in public layouts: diffusers' pipeline, open_clip's folders, the scene reader's."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer

from experiments.emoji_world.captions import all_words
from experiments.emoji_world.clip import CONFIGS, new_clip
from experiments.emoji_world.common import trained_state
from experiments.emoji_world.denoiser import new_scheduler, new_unet
from experiments.emoji_world.reader import new_reader
from experiments.emoji_world.tokenizers import write_vocabulary
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
    check_parts(work, assets, _PARTS)
    if (work / _PARTS["denoiser"].made).exists():
        _export_pipeline(work, assets)
    for name, tokenizer in (("guide", "tok_clip"), ("judge", "tok_wp")):
        if (work / _PARTS[name].made).exists():
            export_clip(work, assets, name, tokenizer)
    if (work / _PARTS["reader"].made).exists():
        reader = new_reader()
        reader.load_state_dict(trained_state(work / "reader", "reader."))
        reader.save_pretrained(assets / "reader")
    return check_size(assets)


def check_parts(work: Path, assets: Path, parts: Mapping[str, Part]) -> None:
    """SgoolError if some stage's part is neither in the work folder nor in the assets."""
    missing = [
        stage for stage, part in parts.items() if not ((work / part.made).exists() or (assets / part.to).exists())
    ]
    if missing:
        raise SgoolError(f"{work}: expected all stages to be finished, got nothing of {', '.join(missing)}; run these")


def check_size(assets: Path, limit: float = LIMIT_MIB) -> float:
    """The size of a folder in MiB; SgoolError above the limit."""
    size = sum(f.stat().st_size for f in assets.rglob("*") if f.is_file()) / 2**20
    if size > limit:
        raise SgoolError(f"{assets}: expected at most {limit} MiB, got {size:.1f} MiB; make the networks smaller")
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


def save_pipeline(pipeline: DiffusionPipeline, assets: Path, words: Sequence[str] | None = None) -> None:
    """A pipeline as float16 safetensors that loads in float32, with the words (this world's) that it has seen."""
    pipeline.to(torch.float16).save_pretrained(assets, safe_serialization=True)
    for part in pipeline.components:
        make_readable_by_transformers_4(assets / part)
    # transformers loads in the type that the configuration names: with float16 there, the text encoder and the float32
    # denoiser of the pipeline's `from_pretrained` do not fit together.
    for file in (assets / part / "config.json" for part in pipeline.components):
        if not file.is_file():  # a tokenizer, a scheduler, or a part that the pipeline is without
            continue
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a folder of this machine
        if file.parent.name.startswith("text_encoder"):
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    listed = all_words() if words is None else words
    (assets / WORDS).write_text("".join(f"{word}\n" for word in listed), encoding="utf-8")


def make_readable_by_transformers_4(part: Path) -> None:
    """Gives a saved tokenizer or CLIP text encoder the files and names that transformers before 5 reads.

    5 reads them too. A text encoder with the names that 5 writes would load in 4 with random weights.
    """
    if (part / "tokenizer.json").is_file():
        write_vocabulary(part)
    file = part / "model.safetensors"
    if part.name.startswith("text_encoder") and file.is_file():
        state = load_file(file)
        prefix = "text_model."
        names = {name: name if name.startswith((prefix, "text_projection.")) else prefix + name for name in state}
        save_file({names[name]: weight for name, weight in state.items()}, file, metadata={"format": "pt"})


def export_clip(work: Path, assets: Path, name: str, tokenizer_folder: str) -> None:
    """Writes the CLIP "guide" or "judge" in open_clip's layout, with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(str(work / tokenizer_folder))
    model = new_clip(name, len(tokenizer))
    model.load_state_dict(trained_state(work / name, "clip."))
    folder = assets / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    named = folder / "tokenizer_config.json"
    text = named.read_text(encoding="utf-8").replace("TokenizersBackend", "PreTrainedTokenizerFast")
    named.write_text(text, encoding="utf-8")  # the name in transformers 4, which 5 knows as well
    config = copy.deepcopy(CONFIGS[name])
    config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
