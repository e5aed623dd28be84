"""Frozen CLIP towers, which embed images and prompts in one space, each with its own preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.clip_sources import ClipSource, resolve_clip
from sgool.models.devices import best_device
from sgool.models.fingerprint import fingerprint
from sgool.models.hub import hub_access, not_cached
from sgool.models.preprocess import Preprocess
from sgool.models.resize import Resize, ResizeMode
from sgool.models.tokenizers import refuse_empty

_MEND = (
    "give a folder in open_clip's layout (open_clip_config.json, weights, tokenizer), or one that ships with sgool, by "
    "the key that names this one: models.guide=emoji_world/guide, models.judges.NAME=emoji_world/judge"
)
_RESIZE_MODES: tuple[ResizeMode, ...] = ("shortest", "longest", "squash")


class ClipTower(nn.Module):
    """A frozen open_clip model in evaluation mode with its own tokenizer, mean and standard deviation.

    Gradients flow through images, never into weights. Build one with `load_clip`.

    Args:
        model: An open_clip model (CLIP, CustomTextCLIP, CoCa) with its preprocessing attached by open_clip.
        tokenizer: The model's tokenizer, as ``open_clip.get_tokenizer`` returns it.
        name: Short name for tables.

    Attributes:
        name: Short name for tables.
        fingerprint: 16 hexadecimal digits that depend only on the image and text weights. Two towers with the same
            fingerprint are the same network, whatever their names (a judge must differ from what was optimised).
        preprocess: Preprocessing of its images.
        input_size: Side in pixels of the square images that the network sees.
        context_length: Number of tokens that the network reads, special ones included.

    Raises:
        SgoolError: The model's input is not square.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, name: str) -> None:
        super().__init__()
        from open_clip.model import get_model_preprocess_cfg

        config = get_model_preprocess_cfg(model)
        self.name = name
        self.input_size = _square(config["size"], name)
        self.context_length = int(tokenizer.context_length)
        self.fingerprint = fingerprint(model)
        self._tokenizer = tokenizer
        resize = Resize(
            size=self.input_size,
            interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
            mode=config["resize_mode"] if config["resize_mode"] in _RESIZE_MODES else "shortest",
            fill=(float(config.get("fill_color") or 0) / 255,) * 3,
        )
        self.preprocess = Preprocess(self.input_size, config["mean"], config["std"], resize=resize)
        self.model = model.requires_grad_(False)
        self.eval()

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, for pixels in [0, 1]."""
        return self.preprocess.mean

    @property
    def std(self) -> Tensor:
        """Standard deviation of each channel."""
        return self.preprocess.std

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights, to which images are converted."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights, to which prompts and images are moved."""
        return next(self.model.parameters()).device

    def train(self, mode: bool = True) -> ClipTower:
        """Keeps the tower in evaluation mode, because batch statistics would couple the images of a batch."""
        return super().train(False)

    def fingerprints(self) -> frozenset[str]:
        """Returns the tower's fingerprint in a set; see `sgool.models.fingerprint.fingerprints`."""
        return frozenset([self.fingerprint])

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embeds prompts; text beyond `context_length` is cut off (see `truncated`).

        Args:
            prompts: B strings.

        Returns:
            (B, D), each row of Euclidean norm 1, at least float32, without gradient.

        Raises:
            ValueError: There are no prompts, or one string is given instead of a sequence.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"encode_text expects a non-empty sequence of strings, got {prompts!r}")
        tokens = self._tokenizer(list(prompts)).to(self.device)
        return _normalise(self.model.encode_text(tokens))  # type: ignore[operator]

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeds images, differentiably; they are resized (anti-aliased, with the model's own interpolation) if needed.

        Args:
            images: (N, 3, h, w), nominally in [0, 1] (not clamped), N at least 1.

        Returns:
            (N, D), each row of Euclidean norm 1, at least float32.

        Raises:
            ValueError: The images have another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
            raise ValueError(f"encode_image expects images of shape (N, 3, h, w), N >= 1, got {tuple(images.shape)}")
        return _normalise(self.model.encode_image(self.preprocess(images, self.dtype)))  # type: ignore[operator]

    def as_published(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, h, w) as open_clip's code shows them to the network: in 8 bits, resized by Pillow.

        `encode_image` then only normalises them. Judges use it; it has no gradient.

        Returns:
            (N, 3, input_size, input_size), in [0, 1].
        """
        return self.preprocess.resize.as_published(images)

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Returns for each prompt the text beyond the context length, which `encode_text` does not read, or None.

        The tokenizer has cleaned this text (white space, for some models case), and it may begin within a word.
        """
        return [_cut_text(self._tokenizer, prompt, self.context_length) for prompt in prompts]


def load_clip(
    model: str,
    pretrained: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> ClipTower:
    """Loads a frozen CLIP.

    Args:
        model: One of: an embedded model (``emoji_world/guide``, ``emoji_world/judge``); a folder in open_clip's
            layout (``open_clip_config.json``, weights, tokenizer files), plain or as ``local-dir:FOLDER``, relative or
            absolute, which never causes network access; a name of open_clip's registry such as ``ViT-B-32``, with
            ``pretrained``; ``hf-hub:OWNER/NAME``.
        pretrained: For registry names, a tag (``laion2b_s34b_b79k``) or a checkpoint file. A file does not say its
            mean and standard deviation, so OpenAI's are used, which is wrong for a few models; a folder says them.
        device: Device of the network; None: the accelerator if there is one.
        dtype: Data type of the weights. They are read in float32 first, so the fingerprint does not depend on it.

    Raises:
        SgoolError: The model is not found, incomplete or unreadable, has no weights, or those of another model.

    Examples:
        >>> from sgool import load_clip
        >>> clip = load_clip("emoji_world/guide")
        >>> tuple(clip.encode_text(["a red cat", "a blue house"]).shape)
        (2, 128)
    """
    device = best_device() if device is None else device
    source = resolve_clip(model, pretrained)
    network, tokenizer = _read(source)
    return ClipTower(network, tokenizer, name=source.name).to(device=device, dtype=dtype)


def _read(source: ClipSource) -> tuple[nn.Module, Any]:
    with hub_access() if source.may_fetch else nullcontext() as unreachable:
        return _network(source, unreachable), _tokenizer(source, unreachable)


def _network(source: ClipSource, unreachable: str | None) -> nn.Module:
    import pickle

    import open_clip
    from safetensors import SafetensorError

    unreadable = (SafetensorError, pickle.UnpicklingError)
    try:
        return open_clip.create_model(source.model, pretrained=source.pretrained, require_pretrained=True)
    except (RuntimeError, ValueError, TypeError, KeyError, OSError, AssertionError, *unreadable) as error:
        if unreachable:
            raise SgoolError(not_cached(f"The CLIP {source.name!r}", unreachable, _MEND)) from error
        raise SgoolError(
            f"Cannot load the CLIP {source.name!r} ({source.model}): {_first_lines(error)}. Expected weights that fit "
            "the configuration; without network access, give a local folder."
        ) from error


def _tokenizer(source: ClipSource, unreachable: str | None) -> Any:
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(source.model, **source.tokenizer_options)
    except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
        if unreachable:
            raise SgoolError(not_cached(f"The tokenizer of the CLIP {source.name!r}", unreachable, _MEND)) from error
        raise SgoolError(
            f"Cannot load the tokenizer of the CLIP {source.name!r} ({source.model}): {_first_lines(error)}. A folder "
            "must hold the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the weights."
        ) from error
    refuse_empty(lambda text: tokenizer([text]).tolist(), f"the CLIP {source.name!r}")
    return tokenizer


def _first_lines(error: Exception) -> str:
    """Returns the start of an error's text on one line; the missing keys of a large model would fill pages."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]}..."


def _square(size: Any, name: str) -> int:
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width:
        raise SgoolError(f"The CLIP {name!r} takes {height}x{width} images; expected a model with a square input.")
    return int(height)


def _normalise(features: Tensor) -> Tensor:
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def _cut_text(tokenizer: Any, prompt: str, context_length: int) -> str | None:
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:  # open_clip's own byte-pair encoding, which adds a start and an end token
        tokens = tokenizer.encode(prompt)
        room = context_length - 2
        return tokenizer.decode(tokens[room:]).strip() if len(tokens) > room else None
    text = _clean(tokenizer, prompt)
    # The mode "clips", for models like CoCa, adds start, end and class tokens itself.
    special = 3 if getattr(tokenizer, "tokenizer_mode", "") == "clips" else inner.num_special_tokens_to_add()
    room = context_length - special
    encoded = inner(text, add_special_tokens=False, return_offsets_mapping=inner.is_fast, verbose=False)
    if len(encoded["input_ids"]) <= room:
        return None
    if inner.is_fast:
        return text[encoded["offset_mapping"][room][0] :].strip()
    return inner.decode(encoded["input_ids"][room:]).strip()


def _clean(tokenizer: Any, prompt: str) -> str:
    if hasattr(tokenizer, "clean_fn"):
        return tokenizer.clean_fn(prompt)
    from open_clip.tokenizer import basic_clean, canonicalize_text  # SigLIP's tokenizer has no attribute for these

    return canonicalize_text(basic_clean(prompt))
