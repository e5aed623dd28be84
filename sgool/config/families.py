"""The registry of model families: which of diffusers' pipelines each is for, and where its class is.

It imports nothing, so that a configuration can be checked before torch loads.
"""

from __future__ import annotations

from dataclasses import dataclass


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
}


def family_for(*classes: str) -> str | None:
    """Returns the name of the first family for one of these pipeline classes, or None."""
    for kind in classes:
        for name, row in FAMILIES.items():
            if kind in row.pipelines:
                return name
    return None


def known_families() -> str:
    """Returns the families with their pipeline classes, for messages."""
    return ", ".join(f"{name} ({', '.join(row.pipelines)})" for name, row in FAMILIES.items())


def unknown_call(names: list[str], family: str) -> str:
    """Says which arguments of a pipeline's call its family takes."""
    taken = ", ".join(FAMILIES[family].call) or "none"
    return f"`models.call`: the family {family} takes these arguments: {taken}; got {', '.join(names)}"
