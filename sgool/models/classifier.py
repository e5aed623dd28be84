"""Frozen image classifiers from timm, torchvision, WS-DAN checkpoints, and local folders of timm networks."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.assets import resolve_asset
from sgool.models.checkpoints import State, first_tensor, load_strictly, read_state
from sgool.models.fingerprint import fingerprints
from sgool.models.hub import hub_access, not_cached
from sgool.models.image_settings import timm_preprocess, torchvision_preprocess, torchvision_weights
from sgool.models.preprocess import Preprocess, frozen
from sgool.models.wsdan import build_wsdan

Source = Literal["timm", "torchvision", "wsdan", "local"]


class ImageClassifier(nn.Module):
    """A frozen network from images in [0, 1] to class logits.

    Args:
        network: Maps preprocessed images to logits.
        preprocess: Preprocessing of its images.
        name: Short name for messages.
        labels: Class names in the order of the logits; empty if unknown.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, name: str, labels: Sequence[str] = ()) -> None:
        super().__init__()
        self.network, self.preprocess = frozen(network), preprocess
        self.name, self.labels = name, tuple(labels)
        self.input_size = preprocess.size
        self.num_classes = int(self._count())
        if self.labels and len(self.labels) != self.num_classes:
            raise SgoolError(
                f"The classifier {name} has {self.num_classes} classes, but {len(self.labels)} labels were given. "
                "Expected one label per class, in the order of the classes."
            )

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights, to which images are converted."""
        return next(self.network.parameters()).dtype

    def train(self, mode: bool = True) -> ImageClassifier:
        """Keeps the network in evaluation mode, because batch statistics would couple the images of a batch."""
        return super().train(False)

    def fingerprints(self) -> frozenset[str]:
        """Returns the fingerprints of the network and, in torchvision's, of its convolutions, which LPIPS uses too."""
        return fingerprints([self.network, getattr(self.network, "features", None)])

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes), at least float32, of images (N, 3, h, w), nominally in [0, 1].

        Images of ``input_size`` a side are views, which are only normalised; others are whole images, see `whole`.
        """
        if tuple(images.shape[-2:]) != (self.input_size, self.input_size):
            return self.whole(images)
        return self._logits(self.preprocess(images, self.dtype))

    def whole(self, images: Tensor) -> Tensor:
        """Returns the logits of whole images (N, 3, h, w), which the model's own preprocessing resizes and crops."""
        precise = torch.promote_types(self.dtype, torch.float32)
        resized = self.preprocess.resize(images.to(self.preprocess.mean.device, precise))
        return self._logits(self.preprocess.normalise(resized, self.dtype))

    def as_published(self, images: Tensor) -> Tensor:
        """Returns whole images (N, 3, h, w) as the model's own code shows them: in 8 bits, resized by Pillow."""
        return self.preprocess.resize.as_published(images)

    def _logits(self, pixels: Tensor) -> Tensor:
        logits = self.network(pixels)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def class_index(self, target: int | str, key: str = "target") -> int:
        """Returns the index of a class that is given by number or name (case does not matter).

        Args:
            target: A number from 0 to the number of classes - 1, or a label.
            key: Dotted key of the configuration, for messages.

        Raises:
            SgoolError: The number is out of range, the name is unknown or ambiguous, or there are no labels.
        """
        if isinstance(target, int):
            if not 0 <= target < self.num_classes:
                raise SgoolError(
                    f"`{key}`: expected a class from 0 to {self.num_classes - 1} of {self.name}, got {target}"
                )
            return target
        if not self.labels:
            raise SgoolError(
                f"`{key}`: {self.name} comes without class names, got {target!r}; give a class's number, 0 to "
                f"{self.num_classes - 1}, or a file with the names as `labels`"
            )
        wanted = target.strip().lower()
        found = [index for index, label in enumerate(self.labels) if label.lower() == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            raise SgoolError(f"`{key}`: {self.name} has {len(found)} classes named {target!r}: {found}; give a number")
        near = difflib.get_close_matches(wanted, [label.lower() for label in self.labels], n=3, cutoff=0.5)
        hint = f"Close names: {', '.join(near)}." if near else f"The first are: {', '.join(self.labels[:5])}."
        raise SgoolError(f"`{key}`: {self.name} has no class named {target!r}. {hint}")

    @torch.no_grad()
    def _count(self) -> int:
        size = self.preprocess.size
        return self.network(torch.zeros(1, 3, size, size, dtype=self.dtype)).shape[-1]


def load_classifier(
    source: Source,
    model: str | None = None,
    checkpoint: str | None = None,
    labels: str | None = None,
    *,
    device: str | torch.device = "cpu",
) -> ImageClassifier:
    """Loads a frozen image classifier.

    Args:
        source: Library or layout that the classifier comes from; the other arguments depend on it.
        model: Name of the network in timm (without a checkpoint its published weights are fetched) or torchvision.
        checkpoint: Weights file; for ``local`` a folder, or an embedded one (``emoji_world/classifier``), with
            ``config.json`` (``architecture`` of timm, ``labels``, optionally ``model_args``, and ``input_size``,
            ``mean``, ``std``, ``interpolation``, ``crop_pct`` and ``crop_mode``, which timm has for the architecture,
            too) and ``model.safetensors``.
        labels: File with one class name a line, in place of the source's own labels.
        device: Device of the network.

    Raises:
        SgoolError: A name is unknown, a file is missing, or the weights belong to another network.
    """
    network: nn.Module
    found: Sequence[str] = ()
    if source == "wsdan":
        network, preprocess = build_wsdan(read_state(_given(checkpoint, source)), str(checkpoint))
        name = Path(str(checkpoint)).name
    elif source == "local":
        network, preprocess, found = _local(Path(resolve_asset(_given(checkpoint, source))).expanduser())
        name = Path(str(checkpoint)).name
    else:
        load = _timm if source == "timm" else _torchvision
        network, preprocess, found = load(str(model), read_state(checkpoint) if checkpoint else None, str(checkpoint))
        name = str(model)
    names = _read_labels(labels) if labels else tuple(found)
    return ImageClassifier(network, preprocess, name, names).to(device)


def _given(checkpoint: str | None, source: str) -> str:
    if checkpoint is None:
        raise SgoolError(f"A classifier of source {source} needs a `checkpoint`.")
    return checkpoint


def _timm(model: str, state: State | None, path: str) -> tuple[nn.Module, Preprocess, Sequence[str]]:
    import timm

    if not timm.is_model(model):
        near = difflib.get_close_matches(model.partition(".")[0], timm.list_models(), n=3, cutoff=0.5)
        raise SgoolError(f"Unknown timm model {model!r}. Close names: {', '.join(near) or 'none'}.")
    if state is None:
        try:
            with hub_access() as unreachable:
                network = timm.create_model(model, pretrained=True)
        except (RuntimeError, OSError, ValueError) as error:
            if unreachable:
                what = f"The classifier {model!r} of timm"
                raise SgoolError(not_cached(what, unreachable, "give a weights file as `checkpoint`")) from error
            raise SgoolError(
                f"Cannot fetch timm's weights of {model!r}: {' '.join(str(error).split())[:200]}. Without network "
                "access, give a weights file as `checkpoint`."
            ) from error
    else:
        network = timm.create_model(model, pretrained=False, num_classes=_num_classes(_timm_blank(model), state, path))
        load_strictly(network, state, path)
    return network, timm_preprocess(network, model), _timm_labels(network, model)


def _timm_blank(model: str) -> nn.Module:
    """Makes the network on the meta device, without storage, to read the names of its tensors."""
    import timm

    with torch.device("meta"):
        return timm.create_model(model, pretrained=False)


def _timm_labels(network: nn.Module, model: str) -> Sequence[str]:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(network)
    # timm infers the set from the head's size. A head of 1000 classes could be of another set than ImageNet; no
    # published tag that names another set is inferred here.
    if subset is None:
        return ()
    info = ImageNetInfo(subset)
    return [info.index_to_description(index, detailed=False) for index in range(info.num_classes())]


def _torchvision(model: str, state: State | None, path: str) -> tuple[nn.Module, Preprocess, Sequence[str]]:
    from torchvision.models import get_model, list_models

    known = list_models()
    if model not in known or "." in model:
        near = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
        raise SgoolError(f"Unknown torchvision model {model!r}. Close names: {', '.join(near) or 'none'}.")
    if state is None:
        raise SgoolError(f"torchvision's {model} needs a `checkpoint`: its weights file.")
    published = torchvision_weights(model, path)
    options: dict[str, Any] = {}
    if model in ("inception_v3", "googlenet"):
        # The public weights expect mean and std 0.5, which transform_input makes from ImageNet's; the auxiliary heads
        # are optional.
        aux = any(name.lower().startswith("aux") for name in state)
        options = {"transform_input": True, "aux_logits": aux, "init_weights": False}
    with torch.device("meta"):
        blank = get_model(model, weights=None, **options)
    network = get_model(model, weights=None, num_classes=_num_classes(blank, state, path), **options)
    load_strictly(network, state, path)
    labels = published.meta["categories"]
    preprocess = torchvision_preprocess(published, model)
    return network, preprocess, labels if _num_classes(blank, state, path) == len(labels) else ()


def _num_classes(blank: nn.Module, state: State, path: str) -> int:
    """Returns the number of rows of the last linear layer's (or 1x1 convolution's) weight in a state dict."""
    heads = [name for name, part in blank.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    return first_tensor(state, [f"{heads[-1]}.weight"], path, type(blank).__name__).shape[0]


def _local(folder: Path) -> tuple[nn.Module, Preprocess, Sequence[str]]:
    import timm

    config_file, weights = folder / "config.json", folder / "model.safetensors"
    missing = [file.name for file in (config_file, weights) if not file.is_file()]
    if missing:
        raise SgoolError(f"The classifier folder {folder} lacks {' and '.join(missing)}; expected both files.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SgoolError(f"Cannot read {config_file} as JSON: {error}.") from error
    names = (config.get("labels") or config.get("label_names")) if isinstance(config, dict) else None
    if not names or not timm.is_model(str(config.get("architecture"))):
        raise SgoolError(
            f"{config_file} must hold 'architecture', a name that timm knows, and 'labels', the list of class names."
        )
    architecture, labels = config["architecture"], [str(label) for label in names]
    network = timm.create_model(architecture, pretrained=False, num_classes=len(labels), **config.get("model_args", {}))
    load_strictly(network, read_state(weights), weights)
    given = {**config.get("pretrained_cfg", {}), **config}
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    data = {key: given[key] for key in keys if given.get(key)}
    return network, timm_preprocess(network, str(folder), data), labels


def _read_labels(path: str) -> tuple[str, ...]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SgoolError(f"Cannot read the class names in {path}: {error}.") from error
    return tuple(line.strip() for line in lines if line.strip())
