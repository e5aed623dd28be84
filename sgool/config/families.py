"""The registry of model families: which of diffusers' pipelines each is for, and where its class is.

It imports nothing heavy, so that a configuration can be checked before torch loads.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgool.config.suggest import did_you_mean


@dataclass(frozen=True)
class FamilyRow:
    """One family of models.

    Attributes:
        builder: Dotted path of its class, which is imported when a pipeline needs it.
        pipelines: Names of the pipeline classes that it is for; classes derived from them count too.
        denoiser: Name of the pipeline's denoising network.
        call: Arguments of the pipeline's ``__call__`` that the family takes from `models.call`.
    """

    builder: str
    pipelines: tuple[str, ...]
    denoiser: str = "transformer"
    call: tuple[str, ...] = ()


#: Name of the family that runs any pipeline's own call.
REPLAY = "replay"
#: Arguments of a pipeline's call that a run sets itself, and the keys that do.
_SET_BY = {
    "prompt": "data.prompts",
    "negative_prompt": "data.negative_prompt",
    "num_inference_steps": "sampler.num_inference_steps",
    "guidance_scale": "sampler.guidance_scale",
    "timesteps": "sampler.timesteps",
    "sigmas": "sampler.sigmas",
    "eta": "sampler.eta",
    "height": "models.height",
    "width": "models.width",
    "generator": "data.seeds",
    "latents": "data.seeds",
}
#: Those that it needs to be as they are.
_FIXED = ("output_type", "return_dict", "num_images_per_prompt", "num_videos_per_prompt")
_SANA = ("max_sequence_length", "clean_caption", "complex_human_instruction")

#: Name of the family, as `models.family` has it -> its row.
FAMILIES: dict[str, FamilyRow] = {
    "stable_diffusion": FamilyRow(
        "sgool.models.stable_diffusion.StableDiffusion", ("StableDiffusionPipeline",), "unet"
    ),
    "sdxl": FamilyRow(
        "sgool.models.families.sdxl.StableDiffusionXL",
        ("StableDiffusionXLPipeline",),
        "unet",
        ("original_size", "crops_coords_top_left", "target_size", "clip_skip", "force_zeros_for_empty_prompt"),
    ),
    "lcm": FamilyRow(
        "sgool.models.families.lcm.LatentConsistency",
        ("LatentConsistencyModelPipeline",),
        "unet",
        ("original_inference_steps", "clip_skip"),
    ),
    "sd3": FamilyRow(
        "sgool.models.families.sd3.StableDiffusion3",
        ("StableDiffusion3Pipeline",),
        call=("max_sequence_length", "clip_skip"),
    ),
    "flux": FamilyRow(
        "sgool.models.families.flux.Flux", ("FluxPipeline",), call=("max_sequence_length", "true_cfg_scale")
    ),
    "pixart": FamilyRow(
        "sgool.models.families.pixart.PixArt",
        ("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
        call=("max_sequence_length", "clean_caption"),
    ),
    "sana": FamilyRow("sgool.models.families.sana.Sana", ("SanaPipeline",), call=_SANA),
    "sana_sprint": FamilyRow(
        "sgool.models.families.sana.SanaSprint",
        ("SanaSprintPipeline",),
        call=(*_SANA, "max_timesteps", "intermediate_timesteps"),
    ),
    "wan": FamilyRow("sgool.models.families.wan.Wan", ("WanPipeline",), call=("max_sequence_length", "num_frames")),
    # For any pipeline, and only where a user names it: the pipeline's own call is run.
    REPLAY: FamilyRow("sgool.models.families.replay.ReplayFamily", (), ""),
}


#: Modules that diffusers cleans captions with -> their packages.
_CLEANERS = {"bs4": "beautifulsoup4", "ftfy": "ftfy"}


def family_for(*classes: str) -> str | None:
    """Returns the name of the first family for one of these pipeline classes, or None."""
    for kind in classes:
        for name, row in FAMILIES.items():
            if kind in row.pipelines:
                return name
    return None


def known_families() -> str:
    """Returns the families with their pipeline classes, for messages."""
    named = (f"{name} ({', '.join(row.pipelines)})" for name, row in FAMILIES.items() if row.pipelines)
    return f"{', '.join(named)}; models.family={REPLAY} runs any other pipeline's own call (docs/models.md)"


def wrong_call(call: Mapping[str, Any], family: str) -> str | None:
    """Returns what is wrong with a pipeline's call: names that its family does not take, or a missing package."""
    unknown = [name for name in call if name not in FAMILIES[family].call]
    if unknown:
        taken = ", ".join(FAMILIES[family].call) or "none"
        return f"`models.call`: the family {family} takes these arguments: {taken}; got {', '.join(unknown)}"
    # Without them diffusers leaves the captions as they are, and says so in a note alone.
    missing = [name for module, name in _CLEANERS.items() if importlib.util.find_spec(module) is None]
    if call.get("clean_caption") and missing:
        return (
            f"`models.call.clean_caption`: diffusers cleans captions by {' and '.join(_CLEANERS.values())}, and here "
            f"is no {' and no '.join(missing)}; pip install {' '.join(missing)}, or leave it out"
        )
    return None


def replay_call_problems(names: Iterable[str], parameters: Sequence[str] | None = None, kind: str = "") -> list[str]:
    """Returns what is wrong with arguments of the call of a pipeline that is replayed.

    Args:
        names: Of the arguments.
        parameters: Those that the pipeline has; None: they are not known yet.
        kind: Name of the pipeline's class, for messages.
    """
    problems = []
    for name in names:
        if name in _SET_BY:
            problems.append(f"`models.call.{name}`: set {_SET_BY[name]} instead, which becomes this argument")
        elif name in _FIXED:
            problems.append(f"`models.call.{name}`: expected no such argument, which sgool sets itself")
        elif parameters is not None and name not in parameters:
            hint = did_you_mean(name, parameters) or "."
            problems.append(f"`models.call.{name}`: the call of {kind} has no such argument{hint}")
    return problems
