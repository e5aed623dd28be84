"""Writes the emoji scenes' networks in public layouts: diffusers' pipelines, open_clip's folders, ...."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from experiments.emoji_scenes.captions import all_words
from experiments.emoji_scenes.denoiser import new_scheduler, new_transformer
from experiments.emoji_scenes.prompts import write_all as write_prompts
from experiments.emoji_scenes.stages import new_scene_reader
from experiments.emoji_world.common import trained_state
from experiments.emoji_world.export import Part, check_parts, check_size, export_clip, save_pipeline
from experiments.emoji_world.turbo import student_folder
from experiments.saliency_emoji.train import BACKBONE
from experiments.saliency_emoji.train import export as export_saliency
from sgool.config.paths import ASSETS
from sgool.errors import SgoolError
from sgool.saliency.transalnet_network import ARCHITECTURES, TranSalNet

#: Of all assets that ship with sgool together.
ALL_MIB = 120
SALIENCY = "saliency/transalnet.safetensors"

_PARTS = {
    "vae": Part("pipeline/vae", "vae"),
    "text_encoder": Part("pipeline/text_encoder", "text_encoder"),
    "denoiser": Part("transformer/last.ckpt", "transformer"),
    "guide": Part("guide/last.ckpt", "guide"),
    "judge": Part("judge/last.ckpt", "judge"),
    "reader": Part("reader/last.ckpt", "reader"),
    "saliency": Part("saliency/last.ckpt", SALIENCY),
}


def export(work: Path, assets: Path) -> float:
    """Writes everything that is to be committed (student and model card apart) as float16 safetensors.

    What has not been trained in the work folder stays as it is in ``assets``.

    Args:
        work: Work folder with finished stages.
        assets: ``sgool/assets/emoji_scenes``.

    Returns:
        The size of ``assets`` in MiB, prompts and card included.

    Raises:
        SgoolError: Something is in neither folder, or the assets are too large.
    """
    check_parts(work, assets, _PARTS)
    if (work / _PARTS["denoiser"].made).exists():
        save_flow_pipeline(work, trained_state(work / "transformer", "transformer."), assets)
    for name, tokenizer in (("guide", "tok_clip"), ("judge", "tok_wp")):
        if (work / _PARTS[name].made).exists():
            export_clip(work, assets, name, tokenizer)
    if (work / _PARTS["reader"].made).exists():
        reader = new_scene_reader()
        reader.load_state_dict(trained_state(work / "reader", "reader."))
        reader.save_pretrained(assets / "reader")
    if (work / _PARTS["saliency"].made).exists():
        network = TranSalNet(ARCHITECTURES[BACKBONE])
        network.load_state_dict(trained_state(work / "saliency", "network."))
        export_saliency(network, assets / SALIENCY)
    write_prompts(assets / "prompts")
    return check_sizes(assets)


def export_turbo(work: Path, assets: Path) -> float:
    """Writes the student (the one of `matching`, if it has been trained) as a pipeline for few steps and guidance 1.

    Args:
        work: Work folder.
        assets: ``sgool/assets/emoji_scenes_turbo``.

    Returns:
        The size of ``assets`` in MiB.

    Raises:
        SgoolError: No student has been trained, or the assets are too large.
    """
    folder = student_folder(work)
    if not (work / "pipeline" / "vae").is_dir():
        raise SgoolError(f"expected {work / 'pipeline'}, which the stages `vae` and `text_encoder` write; run these")
    save_flow_pipeline(work, trained_state(folder, "transformer."), assets)
    return check_sizes(assets)


def save_flow_pipeline(work: Path, state: dict[str, torch.Tensor], assets: Path) -> None:
    """Writes a `StableDiffusion3Pipeline` with these weights of the transformer.

    The pipeline wants two text encoders, and loads each from a folder of its own: the one is stored twice. T5 and its
    tokenizer are null; diffusers loads such a folder with ``text_encoder_3=None, tokenizer_3=None``.
    """
    folder = work / "pipeline"
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    pipeline = StableDiffusion3Pipeline(
        transformer=_transformer(state, text),
        scheduler=new_scheduler(),
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=text,
        tokenizer=tokenizer,
        text_encoder_2=text,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    save_pipeline(pipeline, assets, all_words())


def _transformer(state: dict[str, torch.Tensor], text: CLIPTextModelWithProjection) -> SD3Transformer2DModel:
    transformer = new_transformer(text.config.hidden_size, text.config.projection_dim)
    transformer.load_state_dict(state)
    return transformer


def check_sizes(assets: Path) -> float:
    """The size of a folder in MiB; SgoolError if it, or all that ships with sgool together, is too large."""
    if assets.resolve().parent == ASSETS.resolve():
        check_size(ASSETS, ALL_MIB)
    return check_size(assets)
