"""What a call of the pipeline returns."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from sgool.types import PairResult

#: What `output_type` may be.
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_GAP = 4
#: Height in pixels to which smaller images are enlarged in a notebook, by a whole factor.
_SHOWN = 160


@dataclass(frozen=True, repr=False)
class SGOOLPipelineOutput:
    """The images of a call, and how they came about. N is the number of prompts times ``num_images_per_prompt``.

    Attributes:
        images: The N kept images, in the order of the prompts: PIL images; with ``output_type`` "np" an array
            (N, H, W, 3), with "pt" a tensor (N, 3, H, W), both in [0, 1] with the values of 8-bit pixels; with "latent"
            denoised latents (N, C, h, w), as the autoencoder takes them (not with clip_guidance and fk_steering). A
            video is a list of PIL images, or has a dimension F after N.
        initial_images: The images of the first latents, in the same form.
        history: One row an image and update: ``image`` (its number), ``prompt``, ``update``, ``loss``, ``selection``,
            each term, ... as in a run's ``history.csv``.
        saliency: Of each kept image the saliency map (H, W) in [0, 1], float32, or None where the method has none.
        latents: First latents (N, C, h, w) of the kept images; ``latents=`` of a later call takes them. They alone
            lead to the images, so that ``method="vanilla"`` makes those again, but for the methods that act between
            denoising steps: with clip_guidance they are the initial ones, with fk_steering those of the particle that
            the image came from.
        initial_latents: First latents (N, C, h, w) of the initial images.
        latent_streams: All streams (S, N, C, h, w) of ``latents``: EDICT has two.
        metrics: Of each image the judges' scores by name (``judge/clip_score``), and those of the initial image with
            ``_initial`` at the end of the name.
        seeds: Of each image the seed of its crops and perturbations; without ``generator`` and ``latents`` also that
            of its first latents: ``sgool fit 'data.seeds=[SEED]'`` makes the same.
        results: Of each image everything that its method returned.
        errors: Of each image why it failed, or None.
        config: The whole configuration of the call, as `sgool fit` has it.
    """

    images: Any
    initial_images: Any
    history: pd.DataFrame
    saliency: list[np.ndarray[Any, Any] | None]
    latents: Tensor
    initial_latents: Tensor
    latent_streams: Tensor
    metrics: list[dict[str, float]]
    seeds: list[int]
    results: list[PairResult]
    errors: list[str | None]
    config: Mapping[str, Any]

    @property
    def scores(self) -> pd.DataFrame:
        """The metrics as a table, one row an image, with the prompt, the seed and the network calls it took."""
        rows = []
        for result in self.results:
            calls = result.network_evaluations + result.network_backward_passes
            own = {"prompt": result.pair.prompt, "seed": result.pair.seed, "calls": calls, "seconds": result.seconds}
            rows.append(own | dict(result.metrics))
        return pd.DataFrame(rows)

    def comparison(self) -> Image.Image:
        """Draws a row an image: the initial image, the kept one and, where there is one, the saliency map."""
        rows = [_row(result) for result in self.results]
        size = (max(row.width for row in rows), sum(row.height + _GAP for row in rows) - _GAP)
        sheet, top = Image.new("RGB", size, "white"), 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height + _GAP
        return sheet

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        method = ", ".join(self.config["methods"])
        return f"{type(self).__name__}({len(self.results)} image{'s' * (len(self.results) != 1)}, method={method})"

    def _repr_png_(self) -> bytes:
        """Shows the comparison in a notebook; small images are enlarged."""
        sheet, file = self.comparison(), BytesIO()
        factor = max(1, _SHOWN // self.results[0].final_image.shape[-2])
        if factor > 1:
            sheet = sheet.resize((factor * sheet.width, factor * sheet.height), Image.Resampling.NEAREST)
        sheet.save(file, "PNG")
        return file.getvalue()


def make_output(
    results: Sequence[PairResult], config: Mapping[str, Any], output_type: str, denoised: tuple[Tensor, Tensor] | None
) -> SGOOLPipelineOutput:
    """Makes the output of results.

    Args:
        results: One an image.
        config: The configuration of the call.
        output_type: One of `OUTPUT_TYPES`.
        denoised: For "latent", the denoised latents (N, C, h, w) of the kept and of the initial images.
    """
    if denoised is not None:
        images: tuple[Any, Any] = denoised
    else:
        kept, first = ([getattr(r, name) for r in results] for name in ("final_image", "initial_image"))
        images = _in_form(kept, output_type), _in_form(first, output_type)
    streams = torch.stack([result.final_latents for result in results], dim=1)
    return SGOOLPipelineOutput(
        images=images[0],
        initial_images=images[1],
        history=_history(results),
        saliency=[None if r.saliency_map is None else r.saliency_map[0].float().numpy() for r in results],
        latents=streams[0],
        initial_latents=torch.stack([result.initial_latents[0] for result in results]),
        latent_streams=streams,
        metrics=[dict(result.metrics) for result in results],
        seeds=[result.pair.seed for result in results],
        results=list(results),
        errors=[result.error for result in results],
        config=copy.deepcopy(dict(config)),  # the pipeline keeps its own for the next call
    )


def _history(results: Sequence[PairResult]) -> pd.DataFrame:
    rows = [
        {"image": number, "prompt": result.pair.prompt, **row}
        for number, result in enumerate(results)
        for row in result.history
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["image", "prompt", "update", "loss", "selection"])


def _in_form(images: Sequence[Tensor], output_type: str) -> Any:
    if output_type == "pil":
        return [_pictures(image) for image in images]
    # Videos are (3, F, H, W) here and (F, 3, H, W) in diffusers.
    stacked = torch.stack([image.transpose(0, 1) if image.ndim == 4 else image for image in images])
    return stacked.movedim(-3, -1).numpy() if output_type == "np" else stacked


def _pictures(image: Tensor) -> Any:
    """Returns the PIL image of an image (3, H, W) in [0, 1], or those of a video (3, F, H, W)."""
    if image.ndim == 4:
        return [_pictures(frame) for frame in image.unbind(1)]
    pixels = (image.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.movedim(0, -1).numpy()))


def _row(result: PairResult) -> Image.Image:
    tiles = [result.initial_image, result.final_image]
    tiles += [] if result.saliency_map is None else [result.saliency_map.expand_as(result.final_image)]
    # Of a video the middle frame.
    flat = [tile[:, tile.shape[1] // 2] if tile.ndim == 4 else tile for tile in tiles]
    pictures = [_pictures(tile) for tile in flat]
    row = Image.new("RGB", (sum(p.width + _GAP for p in pictures) - _GAP, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    return row
