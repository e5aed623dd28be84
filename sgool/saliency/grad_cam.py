"""Grad-CAM and Grad-CAM++ on a CLIP's image tower, which show where the tower sees the prompt or another text.

Sources: Grad-CAM, Selvaraju et al., ICCV 2017; Grad-CAM++, Chattopadhyay et al., WACV 2018.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sgool.errors import ConfigError, SgoolError
from sgool.models.clip import ClipTower
from sgool.models.networks import Networks
from sgool.saliency.base import check_images, normalise_map
from sgool.types import PromptSeed

#: Fewest cells along a side of the default layer: as many as in the last one of ResNet-50 or ViT-B/32 at 224 px.
_FEWEST_CELLS = 7


class GradCam:
    """A detector that weights the channels of one layer by how much they raise CLIP's logit for a text.

    If no cell of an image raises the logit, its map is all zeros. Oblong images are squeezed into the tower's square
    input, so that the map covers the whole image.

    Args:
        tower: The CLIP.
        plus_plus: Use Grad-CAM++ instead of Grad-CAM; its weights can tell several objects of the same kind apart.
        layer: Dotted name of a module below the image tower. Its output must be a feature map (B, C, h, w), or tokens
            (B, N, C) of which the last form the grid. None: the deepest residual stage with at least 7 x 7 cells, or
            the norm before a transformer's last block.
        query: The text to look for, in which ``{prompt}``, ``{category}`` and ``{COLUMN}`` (a further column of the
            prompt file) are replaced by the pair's values. None: the pair's prompt.

    Raises:
        SgoolError: There is no such layer, or the tower has no known layers.
        ConfigError: The query is empty, or its braces do not match.
    """

    def __init__(
        self, tower: ClipTower, *, plus_plus: bool = False, layer: str | None = None, query: str | None = None
    ) -> None:
        self.tower, self.plus_plus, self.query = tower, plus_plus, query
        self._fields = _fields(query) if query is not None else ["prompt"]
        visual = tower.model.visual
        assert isinstance(visual, nn.Module)
        self.layer = _named(visual, layer, tower.name) if layer is not None else _default(visual, tower)
        self._texts = None if query is None or self._fields else tower.encode_text([query])

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns a sentence for each pair without a value for a column that the query names."""
        return [problem for pair in pairs if (problem := self._missing(pair))]

    def bind(self, pairs: Sequence[PromptSeed]) -> GradCam:
        """Returns the detector for these pairs, one image each; each pair's text is embedded once and by itself.

        Raises:
            SgoolError: A pair has no value for a column that the query names.
        """
        return self._looking_for([self._text(pair) for pair in pairs])

    def for_texts(self, texts: Sequence[str]) -> GradCam | None:
        """Returns the detector for these texts, one image each; None where a query says what to look for."""
        return None if self.query is not None else self._looking_for(texts)

    def _looking_for(self, texts: Sequence[str]) -> GradCam:
        bound = object.__new__(GradCam)
        bound.__dict__.update(self.__dict__)
        bound._texts = torch.cat([self.tower.encode_text([text]) for text in texts])
        return bound

    def __call__(self, images: Tensor) -> Tensor:
        """Makes the saliency maps of images, without gradients, also under ``no_grad``.

        Args:
            images: (B, 3, H, W); clamped to [0, 1]. B pairs must be bound unless the query is one text for all.

        Returns:
            (B, 1, H, W) in [0, 1], at least float32.

        Raises:
            SgoolError: There is no text to look for, a map is not finite, or the layer has no grid.
            ValueError: The images have another shape, or there are not as many images as bound pairs.
        """
        check_images(images)
        texts = self._targets(len(images))
        size = self.tower.input_size
        with torch.autocast(images.device.type, enabled=False):
            pixels = images.detach().to(self.tower.device, torch.promote_types(images.dtype, torch.float32)).clamp(0, 1)
            square = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=True)
            activations, gradients = self._explain(square, texts)
            weights = plus_plus_weights(activations, gradients) if self.plus_plus else gradients.mean((2, 3))
            cells = (weights[:, :, None, None] * activations).sum(dim=1, keepdim=True).relu()
            maps = F.interpolate(cells, images.shape[-2:], mode="bilinear", align_corners=False)
            return normalise_map(maps)

    def _targets(self, number: int) -> Tensor:
        if self._texts is None:
            raise SgoolError(
                "Grad-CAM looks for a text, and got none: bind the detector to the pairs, or set "
                "saliency.detector.query to one text for all images."
            )
        if len(self._texts) not in (1, number):
            raise ValueError(f"expected {len(self._texts)} images, one per bound pair, got {number}")
        return self._texts.expand(number, -1)

    def _text(self, pair: PromptSeed) -> str:
        if problem := self._missing(pair):
            raise SgoolError(problem)
        known = _values(pair)
        return pair.prompt if self.query is None else self.query.format_map({k: str(v) for k, v in known.items()})

    def _missing(self, pair: PromptSeed) -> str | None:
        known = _values(pair)
        missing = [name for name in self._fields if name not in known]
        return (
            f"`saliency.detector.query`: {{{missing[0]}}} is no column of the prompt {pair.prompt!r}; it has "
            f"{', '.join(sorted(known))}"
            if missing
            else None
        )

    def _explain(self, square: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the layer's output and the logits' gradient with respect to it, each (B, C, h, w)."""
        scale = getattr(self.tower.model, "logit_scale", None)
        factor = scale.detach().exp() if isinstance(scale, Tensor) else 100.0
        with torch.enable_grad(), _leaf_at(self.layer) as leaves:
            embeddings = self.tower.encode_image(square)
            # One gradient of the sum serves all images, since each image's logit depends on that image alone.
            logits = factor * (embeddings * texts.to(embeddings)).sum()
            (leaf,) = leaves
            (gradient,) = torch.autograd.grad(logits, leaf)
        precise = torch.promote_types(leaf.dtype, torch.float32)
        return as_grid(leaf.detach().to(precise)), as_grid(gradient.to(precise))


def _values(pair: PromptSeed) -> dict[str, Any]:
    return {**pair.metadata, "prompt": pair.prompt, "category": pair.category}


def plus_plus_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """Returns the channel weights (B, C) of Grad-CAM++: positive gradients, weighted by equation (19) of the paper.

    As in the paper, the explained score is exp(logit), so its higher derivatives are powers of ``gradients``, the
    gradients of the logit.
    """
    square = gradients.square()
    below = 2 * square + activations.sum((2, 3), keepdim=True) * square * gradients
    alpha = torch.where(below != 0, square / torch.where(below != 0, below, 1), 0)
    return (alpha * gradients.relu()).sum((2, 3))


def as_grid(features: Tensor) -> Tensor:
    """Returns a feature map (B, C, h, w) as it is, and the grid of tokens (B, N, C) as (B, C, h, h)."""
    if features.ndim == 4:
        return features
    side = math.isqrt(features.shape[1]) if features.ndim == 3 else 0
    if side == 0:
        raise _other_output(str(tuple(features.shape)))
    return features[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def _other_output(got: str) -> SgoolError:
    return SgoolError(
        "`saliency.detector.layer`: expected a layer whose output is a feature map (B, C, h, w) or tokens (B, N, C), "
        f"got {got}"
    )


@contextmanager
def _leaf_at(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Records the layer's output and cuts the graph there, so that nothing before it is differentiated."""
    leaves: list[Tensor] = []

    def hook(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            raise _other_output(f"a {type(output).__name__}")
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()  # the next layer may work in place

    handle = layer.register_forward_hook(hook)
    try:
        yield leaves
    finally:
        handle.remove()


def _named(visual: nn.Module, layer: str, name: str) -> nn.Module:
    try:
        return visual.get_submodule(layer)
    except AttributeError as error:
        known = ", ".join(child for child, _ in visual.named_children())
        raise SgoolError(
            f"`saliency.detector.layer`: the image tower of the CLIP {name!r} has no module {layer!r}; at its top are "
            f"{known}"
        ) from error


def _default(visual: nn.Module, tower: ClipTower) -> nn.Module:
    trunk = getattr(visual, "trunk", visual)  # open_clip's name for a timm model inside
    blocks = getattr(getattr(trunk, "transformer", None), "resblocks", None) or getattr(trunk, "blocks", None)
    if isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        # After the last block only the class token matters; in the block's input the patches still do.
        norm = getattr(blocks[-1], "ln_1", None) or getattr(blocks[-1], "norm1", None)
        if isinstance(norm, nn.Module):
            return norm
    stages = [getattr(trunk, f"layer{number}", None) for number in (4, 3, 2, 1)]
    if not all(isinstance(stage, nn.Module) for stage in stages):
        raise SgoolError(
            f"`saliency.detector.layer`: which layer of the image tower of the CLIP {tower.name!r} "
            f"({type(trunk).__name__}) to look at is not known; give a module's name, at its top are "
            f"{', '.join(child for child, _ in visual.named_children())}"
        )
    strides = (32, 16, 8, 4)
    fitting = [s for s, stride in zip(stages, strides, strict=True) if tower.input_size // stride >= _FEWEST_CELLS]
    return (fitting or stages[-1:])[0]  # type: ignore[return-value]


def _fields(query: str) -> list[str]:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(query) if name is not None]
    except ValueError as error:
        raise ConfigError([f"saliency.detector.query: {error} in {query!r}; write {{{{ for a brace itself."]) from error
    if not query.strip() or not all(name.isidentifier() for name in fields):
        raise ConfigError([f"saliency.detector.query must be null or a text, with columns in braces, got {query!r}."])
    return fields


def build_grad_cam(clip: Mapping[str, Any], layer: str | None, query: str | None, networks: Networks) -> GradCam:
    """Builds the Grad-CAM of a validated configuration from its options, those of `GradCamOptions`."""
    return GradCam(networks.clip(**clip), layer=layer, query=query)


def build_grad_cam_pp(clip: Mapping[str, Any], layer: str | None, query: str | None, networks: Networks) -> GradCam:
    """Builds the Grad-CAM++ of a validated configuration from its options, those of `GradCamPlusPlusOptions`."""
    return GradCam(networks.clip(**clip), plus_plus=True, layer=layer, query=query)
