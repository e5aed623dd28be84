"""Object detectors of transformers behind one call: which objects of given names an image shows, and where.

Three kinds are known by their configuration's ``model_type``: instance segmentation (Mask2Former), detectors of boxes
with fixed classes (DETR and the like), and detectors of any name (OWLv2, OWL-ViT, Grounding DINO).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from sgool.config.weights import folder_files
from sgool.errors import SgoolError
from sgool.models.checkpoints import refuse_broken
from sgool.models.complete import refuse_missing
from sgool.models.hub import hub_access, not_cached
from sgool.models.preprocess import frozen

#: Other names of classes in the labels of public detectors.
_OTHER_NAMES = {
    "airplane": ("aeroplane",),
    "computer keyboard": ("keyboard",),
    "computer mouse": ("mouse",),
    "couch": ("sofa",),
    "hair drier": ("hair dryer",),
    "motorcycle": ("motorbike",),
    "tv": ("tvmonitor", "television"),
    "tv remote": ("remote",),
}
#: Masks that mmdet's Mask2Former keeps of an image.
_MOST_MASKS = 100


@dataclass(frozen=True, eq=False)
class FoundObject:
    """An object that was found.

    Attributes:
        box: Left, top, right and bottom in pixels.
        score: Confidence in [0, 1].
        mask: Its pixels, a bool tensor (H, W); None: the detector gives boxes alone.
    """

    box: tuple[float, float, float, float]
    score: float
    mask: Tensor | None = None


class ObjectDetector(nn.Module):
    """A frozen detector of transformers with its processor.

    Args:
        network: The network.
        processor: Its image processor, or its processor of images and texts.
        kind: "masks", "boxes" (fixed classes) or "names" (any name).
    """

    def __init__(self, network: Any, processor: Any, kind: str) -> None:
        super().__init__()
        self.network = frozen(network)
        self._processor, self.kind = processor, kind
        self._model_type = str(network.config.model_type)
        labels = dict(getattr(network.config, "id2label", None) or {}) if kind != "names" else {}
        self._labels = {str(label).lower().strip(): int(number) for number, label in labels.items()}

    def train(self, mode: bool = True) -> ObjectDetector:
        """Keeps the network in evaluation mode."""
        return super().train(False)

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Returns those names that are none of the detector's classes; one of kind "names" knows all."""
        return [] if self.kind == "names" else [name for name in names if self._label(name) is None]

    @torch.no_grad()
    def detect(self, image: Tensor, names: Sequence[str], threshold: float) -> dict[str, list[FoundObject]]:
        """Finds the objects of some names, each name by itself.

        Args:
            image: (3, H, W) in [0, 1]; it is rounded to 8 bits, and the processor resizes it.
            names: Names of classes.
            threshold: Only objects with a confidence above it are returned.

        Returns:
            Name -> objects, from the most to the least confident.

        Raises:
            SgoolError: A name is none of the detector's classes, or the processor refuses the image.
        """
        if unknown := self.unknown(names):
            raise SgoolError(f"expected classes of the detector, got {', '.join(map(repr, unknown))}; {self.classes()}")
        levels = (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
        if self.kind == "names":
            found = {name: self._named(picture, name, threshold) for name in dict.fromkeys(names)}
        else:
            everything = self._masks(picture, threshold) if self.kind == "masks" else self._boxes(picture, threshold)
            found = {name: [one for label, one in everything if label == self._label(name)] for name in names}
        return {name: sorted(objects, key=lambda one: -one.score) for name, objects in found.items()}

    def classes(self) -> str:
        """Returns a few of the detector's classes, for messages."""
        some = ", ".join(list(self._labels)[:8]) or "none named"
        return f"its {len(self._labels)} classes are {some}{', ...' if len(self._labels) > 8 else ''}"

    def _label(self, name: str) -> int | None:
        wanted = (name.lower().strip(), *_OTHER_NAMES.get(name.lower().strip(), ()))
        return next((self._labels[one] for one in wanted if one in self._labels), None)

    def _run(self, picture: Image.Image, **texts: Any) -> tuple[Any, Any]:
        try:
            inputs = self._processor(images=picture, return_tensors="pt", **texts)
        except ValueError as error:
            raise SgoolError(
                f"the detector's processor refuses an image of {picture.width}x{picture.height} pixels: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        first = next(self.network.parameters())
        moved = {
            name: value.to(first.device, first.dtype) if value.is_floating_point() else value.to(first.device)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }
        takes = {name: value for name, value in moved.items() if name != "pixel_mask" or self.kind != "masks"}
        return self.network(**takes), moved

    def _masks(self, picture: Image.Image, threshold: float) -> list[tuple[int, FoundObject]]:
        """Returns labels and objects as mmdet's head for instances does, with which GenEval was published.

        Each of the best pairs of query and class is an object. Its score is the class's probability times the mean of
        the mask's probabilities inside the mask.
        """
        outputs, inputs = self._run(picture)
        logits = outputs.class_queries_logits[0].float().softmax(dim=-1)[:, :-1]
        masks = _to_image(outputs.masks_queries_logits.float(), inputs, picture)
        scores, best = logits.flatten().topk(min(_MOST_MASKS, logits.numel()))
        queries, labels = best // logits.shape[1], best % logits.shape[1]
        found = []
        for score, query, label in zip(scores.tolist(), queries.tolist(), labels.tolist(), strict=True):
            inside = masks[query] > 0
            sure = float((masks[query].sigmoid() * inside).sum() / (inside.sum() + 1e-6))
            if score * sure > threshold:
                found.append((label, FoundObject(_around(inside), score * sure, inside.cpu())))
        return found

    def _boxes(self, picture: Image.Image, threshold: float) -> list[tuple[int, FoundObject]]:
        outputs, _ = self._run(picture)
        size = [(picture.height, picture.width)]
        (result,) = self._processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=size)
        return list(zip(result["labels"].tolist(), _objects(result), strict=True))

    def _named(self, picture: Image.Image, name: str, threshold: float) -> list[FoundObject]:
        size = [(picture.height, picture.width)]
        if self._model_type.startswith("owl"):
            outputs, _ = self._run(picture, text=[[f"a photo of a {name}"]])
            own: dict[str, Any] = {}
        else:
            # Grounding DINO wants lower case and a full stop.
            outputs, inputs = self._run(picture, text=f"{name.lower()}.")
            own = {"input_ids": inputs["input_ids"], "text_threshold": threshold}
        (result,) = self._processor.post_process_grounded_object_detection(
            outputs, threshold=threshold, target_sizes=size, **own
        )
        return _objects(result)


def _objects(result: Any) -> list[FoundObject]:
    pairs = zip(result["boxes"].tolist(), result["scores"].tolist(), strict=True)
    return [FoundObject((box[0], box[1], box[2], box[3]), score) for box, score in pairs]


def _to_image(masks: Tensor, inputs: Any, picture: Image.Image) -> Tensor:
    """Resizes logits (1, Q, h, w) to the network's input, cuts its border off, and resizes to the image (Q, H, W)."""
    masks = F.interpolate(masks, inputs["pixel_values"].shape[-2:], mode="bilinear", align_corners=False)
    if "pixel_mask" in inputs:
        valid = inputs["pixel_mask"][0]
        masks = masks[..., : int(valid.any(dim=1).sum()), : int(valid.any(dim=0).sum())]
    return F.interpolate(masks, (picture.height, picture.width), mode="bilinear", align_corners=False)[0]


def _around(mask: Tensor) -> tuple[float, float, float, float]:
    """Returns the box of a mask, zeros if it is empty."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def load_detector(model: str, *, device: str | torch.device = "cpu") -> ObjectDetector:
    """Loads a detector in transformers' layout.

    Args:
        model: Folder (``config.json``, weights, ``preprocessor_config.json``, for detectors of any name a tokenizer) or
            hub id, such as facebook/mask2former-swin-small-coco-instance.
        device: Device of the network.

    Raises:
        SgoolError: The files are not found or broken, weights are missing, or it is another kind of model.
    """
    import transformers

    local = Path(model).expanduser().is_dir()
    source = str(Path(model).expanduser()) if local else model
    if local:
        refuse_broken(folder_files(Path(source)))
    try:
        with nullcontext() if local else hub_access() as unreachable:
            # Without it, transformers 4 guesses the kind of model from the folder's name.
            if local and not Path(source, "config.json").is_file():
                raise FileNotFoundError("there is no config.json in it")
            config = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
            kind = _kind(config.model_type, model)
            loader, reader = _LOADERS[kind]
            network, info = getattr(transformers, loader).from_pretrained(
                source, output_loading_info=True, local_files_only=local
            )
            processor = getattr(transformers, reader).from_pretrained(source, local_files_only=local)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        if unreachable:
            raise SgoolError(
                not_cached(f"The detector {model!r}", unreachable, "give a folder in transformers' layout")
            ) from error
        raise SgoolError(
            f"Cannot load a detector from {model!r}: {' '.join(str(error).split())[:300]}. Expected {_EXPECTED}"
        ) from error
    refuse_missing(model, network, info["missing_keys"], "Fetch its files again.")
    return ObjectDetector(network, processor, kind).to(device)


_EXPECTED = (
    "a detector in transformers' layout (config.json, weights, preprocessor_config.json), such as Mask2Former for "
    "instances, DETR, OWLv2 or Grounding DINO, or a hub id that can be reached."
)
#: Kind -> names in transformers of what loads the network and its processor.
_LOADERS = {
    "masks": ("AutoModelForUniversalSegmentation", "AutoImageProcessor"),
    "boxes": ("AutoModelForObjectDetection", "AutoImageProcessor"),
    "names": ("AutoModelForZeroShotObjectDetection", "AutoProcessor"),
}


def _kind(model_type: str, model: str) -> str:
    from transformers.models.auto import modeling_auto

    if model_type in modeling_auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES:
        return "names"
    if model_type in ("mask2former", "maskformer"):
        return "masks"
    if model_type in modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        return "boxes"
    raise SgoolError(f"{model!r} is a {model_type} model, which is no detector that sgool knows: expected {_EXPECTED}")
