"""Loading of a text-to-image model from a folder or a hub id, frozen and ready for the chain."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.assets import resolve_asset


@dataclass(frozen=True)
class DiffusionModels:
    """The frozen components of a Stable Diffusion 1.x or 2.x pipeline, as diffusers loads them."""

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    name: str

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the denoising network's weights."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def num_tokens(self) -> int:
        """Length of ``prompt_embeds``; a tokenizer may be saved without its limit, the text encoder always has one."""
        return int(min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings))

    def to(self, device: torch.device | str) -> DiffusionModels:
        """Moves the networks in place; returns itself."""
        for network in (self.vae, self.unet, self.text_encoder):
            network.to(device)
        return self

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of the latents of an image; by default of the size the model was trained for.

        Raises:
            SgoolError: A side is not a positive multiple of what the network can halve.
        """
        sample = self.unet.config.sample_size
        default = (sample, sample) if isinstance(sample, int) else tuple(sample)
        factor = self.vae_scale_factor
        # Below the latents, the network halves them once per block but the last.
        multiple = factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        sides = []
        for name, side, latent in (("height", height, default[0]), ("width", width, default[1])):
            pixels = latent * factor if side is None else side
            if pixels < multiple or pixels % multiple:
                near = max(multiple, round(pixels / multiple) * multiple)
                raise SgoolError(
                    f"`models.{name}`: expected a multiple of {multiple} pixels (VAE factor {factor}), got {pixels}; "
                    f"{near} would do"
                )
            sides.append(pixels // factor)
        return (int(self.unet.config.in_channels), sides[0], sides[1])

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """``prompt_embeds`` (B, L, D). Warns with the words that the tokenizer's length cuts off."""
        for prompt, cut in zip(prompts, self.truncated(prompts), strict=True):
            if cut:
                # 3: past torch's wrapper for no_grad, so that the warning names the caller.
                warnings.warn(f"prompt over {self.num_tokens} tokens: {cut!r} of {prompt!r} is cut off", stacklevel=3)
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.num_tokens,
            truncation=True,
            return_tensors="pt",
        )
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0]
        return embeds

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Per prompt, the text that the tokenizer cuts off (empty: nothing)."""
        limit = self.num_tokens
        cut = []
        for prompt in prompts:
            ids = self.tokenizer(prompt, truncation=False, verbose=False).input_ids
            cut.append(self.tokenizer.decode(ids[limit - 1 : -1]).strip() if len(ids) > limit else "")
        return cut


def load_models(
    path: str | Path = "emoji_world",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    compile: bool = False,
) -> DiffusionModels:
    """Loads the components of a ``StableDiffusionPipeline``, frozen and in evaluation mode.

    Like the pipeline itself, it reads an old scheduler config's ``steps_offset`` 0 as 1; for another schedule replace
    the ``scheduler`` of what it returns.

    Args:
        path: A folder written by ``save_pretrained``, a hub id, or "emoji_world" for the embedded model.
        device: Where the networks go.
        dtype: Of the networks' weights.
        channels_last: Memory format of the convolutions.
        compile: Let torch.compile translate the denoising network at its first calls.

    Raises:
        SgoolError: The folder is not a pipeline, or the hub cannot be reached.
    """
    resolved = resolve_asset(str(path))
    local = bool(resolved) and Path(resolved).is_dir()
    _check_folder(str(path), Path(resolved), local)
    import diffusers

    # Renamed in 0.42: each name is refused or deprecated on the other side.
    name = "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 42) else "torch_dtype"
    options: dict[str, Any] = {name: dtype, "safety_checker": None, "requires_safety_checker": False}
    try:
        with _no_progress_bars():
            pipeline = diffusers.StableDiffusionPipeline.from_pretrained(resolved, local_files_only=local, **options)
    except (OSError, ValueError, TypeError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        mend = "a missing file: write the folder again" if local else "check the id and the network, or give a folder"
        raise SgoolError(
            f"`models.path`: could not load a Stable Diffusion pipeline from {str(path)!r}: {why} ({mend})"
        ) from error
    models = DiffusionModels(
        pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.tokenizer, pipeline.scheduler, str(path)
    )
    for network in (models.vae, models.unet, models.text_encoder):
        network.requires_grad_(False).eval()
        if channels_last:
            network.to(memory_format=torch.channels_last)
    if torch.device(device).type == "cpu" and _is_small(models):
        _use_plain_attention(models)
    models.to(device)
    if compile:
        models.unet.compile()
    return models


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Loading takes seconds; its bars would break the terminal's own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()


def _check_folder(path: str, resolved: Path, local: bool) -> None:
    if local and not (resolved / "model_index.json").is_file():
        raise SgoolError(
            f"`models.path`: expected a folder of a diffusers pipeline (with model_index.json), got {path!r}, which "
            f"has {sorted(p.name for p in resolved.iterdir())[:8]}; write one with `pipeline.save_pretrained(folder)`"
        )
    looks_local = not path or path.startswith((".", "/", "~")) or path.count("/") > 1
    if not local and looks_local:
        raise SgoolError(f"`models.path`: expected an existing folder or a hub id (owner/name), got {path!r}")


def _is_small(models: DiffusionModels) -> bool:
    """Whether the latents of the model's own image size are at most 16 x 16."""
    _, height, width = models.latent_shape()
    return height * width <= 256


def _use_plain_attention(models: DiffusionModels) -> None:
    """A softmax between two products; on CPUs, fused attention of few tokens gains nothing, and has no second gradient.

    For the embedded network both take the same time in float32, and the plain one is 8 % faster in bfloat16; with
    1,024 tokens the fused one is a tenth faster in float32 (benchmarks/chain.py), and needs no memory for its matrix.
    """
    from diffusers.models.attention_processor import AttnProcessor

    models.unet.set_attn_processor(AttnProcessor())
