"""GenEval (Ghosh et al. 2023) as a judge: a detector of transformers finds objects, and a CLIP names their colours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sgool.errors import SgoolError
from sgool.metrics.base import PairScore
from sgool.metrics.clip_score import check_number
from sgool.metrics.geneval_rules import COLOURS, TAGS, GenEvalSettings, Wanted, counted, faults
from sgool.metrics.vqa import image_digest
from sgool.models.clip import ClipTower
from sgool.models.detector import FoundObject, ObjectDetector, load_detector
from sgool.models.networks import Networks
from sgool.types import PromptSeed

_TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
#: Grey that takes the place of what is not the object.
_GREY = (0x99, 0x99, 0x99)


class ObjectChecker:
    """Checks images against GenEval's rules, and keeps the verdicts on the last ones, which several metrics share.

    Args:
        detector: Finds the objects. The published numbers are those of mmdet's Mask2Former with Swin-S.
        clip: Names colours; OpenAI's ViT-L/14 in the published evaluation.
        settings: Thresholds.
        where: Dotted key of the judge, for messages.
    """

    def __init__(
        self,
        detector: ObjectDetector,
        clip: ClipTower,
        settings: GenEvalSettings | None = None,
        where: str = "models.judges.geneval",
    ) -> None:
        self._detector, self._clip, self.where = detector, clip, where
        self._settings = settings or GenEvalSettings()
        self._classifiers: dict[str, Tensor] = {}
        self._verdicts: dict[tuple[str, str], list[str]] = {}

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns a sentence for each pair without valid columns, or with classes that the detector does not know."""
        found = []
        for pair in pairs:
            try:
                unknown = self._detector.unknown(Wanted.of(pair, self.where).classes)
            except SgoolError as error:
                found.append(str(error))
                continue
            if unknown:
                found.append(
                    f"`{self.where}.detector`: the detector has no class {' and '.join(map(repr, unknown))}, which "
                    f"{pair.prompt!r} asks for; {self._detector.classes()}"
                )
        return found

    def check(self, images: Tensor, pairs: Sequence[PromptSeed]) -> list[list[str]]:
        """Returns for each image (B, 3, H, W) in [0, 1] a sentence for each rule that it breaks; none: it is correct.

        Raises:
            SgoolError: A pair has no valid columns, or the detector does not know a class.
        """
        wanted = [Wanted.of(pair, self.where) for pair in pairs]
        keys = [
            (image_digest(image), json.dumps([one.tag, one.include, one.exclude], sort_keys=True, default=list))
            for image, one in zip(images, wanted, strict=True)
        ]
        kept: dict[tuple[str, str], list[str]] = {}
        for key, image, one in zip(keys, images, wanted, strict=True):
            kept[key] = self._verdicts[key] if key in self._verdicts else self._check(image, one)
        self._verdicts = kept
        return [kept[key] for key in keys]

    def _check(self, image: Tensor, wanted: Wanted) -> list[str]:
        settings = self._settings
        threshold = settings.counting_threshold if wanted.tag == "counting" else settings.threshold
        found = self._detector.detect(image, wanted.classes, threshold)
        objects = {name: counted(ones, threshold, settings) for name, ones in found.items()}
        return faults(wanted, objects, lambda group, name: self.colours(image, group, name), settings)

    @torch.no_grad()
    def colours(self, image: Tensor, objects: Sequence[FoundObject], name: str) -> list[str | None]:
        """Returns the colour of each object of a class in an image (3, H, W); None for an object without pixels.

        The object is cut out, on grey if the detector gives masks, and the CLIP chooses among the ten colours.
        """
        if name not in self._classifiers:
            texts = [[text.format(colour=colour, name=name) for text in _TEMPLATES] for colour in COLOURS]
            means = torch.stack([self._clip.encode_text(group).mean(dim=0) for group in texts])
            self._classifiers[name] = torch.nn.functional.normalize(means, dim=-1)
        classifier = self._classifiers[name]
        levels = (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).contiguous().numpy()
        found: list[str | None] = []
        for one in objects:
            crop = _cut_out(Image.fromarray(levels), one)
            if crop is None:
                found.append(None)
                continue
            embeds = self._clip.encode_image(self._clip.as_published(crop))
            found.append(COLOURS[int((embeds @ classifier.T).argmax())])
        return found


def _cut_out(picture: Image.Image, found: FoundObject) -> Tensor | None:
    """Returns the pixels (1, 3, h, w) in an object's box, on grey outside its mask; None if the box is empty."""
    if found.mask is not None:
        mask = Image.fromarray(found.mask.numpy())
        picture = Image.composite(picture, Image.new("RGB", picture.size, _GREY), mask)
    crop = picture.crop(found.box)
    if not crop.width or not crop.height:
        return None
    levels = torch.frombuffer(bytearray(crop.tobytes()), dtype=torch.uint8).view(1, crop.height, crop.width, 3)
    return levels.permute(0, 3, 1, 2).float() / 255


class GenEval(PairScore):
    """Share of images that show what GenEval's ``include`` and ``exclude`` ask for: 1 or 0 for each image.

    Args:
        checker: Checks images; metrics of one judge share it.
        tag: Only prompts of this kind count, one of `sgool.metrics.geneval_rules.TAGS`; None: all.
    """

    higher_is_better = True
    digits, scale, unit, difference_unit = 1, 100.0, " %", " pp"

    def __init__(self, checker: ObjectChecker, tag: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._checker = (checker,)
        self._tag = tag
        self.key = "geneval" if tag is None else f"geneval_{tag}"  # type: ignore[misc]
        self.title = "GenEval" if tag is None else f"GenEval, {tag.replace('_', ' ')}"
        self.place = 8 if tag is None else 200 + TAGS.index(tag)

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns a sentence for each pair that the checker refuses."""
        return self._checker[0].problems(pairs) if self._tag is None else []

    def score(self, images: Tensor, pairs: Sequence[PromptSeed]) -> Tensor:
        """Returns scores (B,), float64, of images (B, 3, H, W) in [0, 1]; infinite for pairs of another tag.

        Raises:
            ValueError: The numbers of images and pairs differ.
            SgoolError: A pair has no valid columns, or the detector does not know a class.
        """
        check_number(images, [pair.prompt for pair in pairs])
        verdicts = self._checker[0].check(images, pairs)
        scores = [
            float(not broken) if self._tag in (None, Wanted.of(pair, self._checker[0].where).tag) else float("inf")
            for broken, pair in zip(verdicts, pairs, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float64)


def build_geneval_judge(
    detector: str, clip: Mapping[str, Any], name: str, networks: Networks, **settings: Any
) -> list[GenEval]:
    """Builds the judge of a validated configuration from its options, those of `GenEvalJudgeOptions`."""
    network = networks.shared(("detector", detector), lambda: load_detector(detector, device=networks.device))
    checker = ObjectChecker(network, networks.clip(**clip), GenEvalSettings(**settings), f"models.judges.{name}")
    return [GenEval(checker), *(GenEval(checker, tag) for tag in TAGS)]
