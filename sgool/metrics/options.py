"""Options of judges, and the files that they need.

Nothing here imports torch, so that a configuration can be checked before a network loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sgool.config.kinds import Kind
from sgool.config.options import Config, CustomOptions, Options, option, required
from sgool.config.paths import asset_path
from sgool.config.rules import choice, either, integer, list_of, number, optional, text
from sgool.models.options import (
    TEMPLATE,
    HPSv3Options,
    VisionLanguageOptions,
    clip_option,
    expand_clip,
    folder_problems,
)
from sgool.objectives.files import (
    aesthetic_problems,
    hps_problems,
    image_problems,
    image_reward_problems,
    reference_files,
)

#: Networks of LPIPS, as torchmetrics names them.
LPIPS = ("alex", "vgg", "squeeze")
#: The configuration's mapping of judges.
_JUDGES = "models.judges"
#: Names that mean something else among the metrics of a record.
_TAKEN = {
    "guide": "`models.guide`, whose CLIP score is recorded beside the judges'",
    "scene": "the scene reader, whose answers are recorded beside the judges' scores",
}


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(Options):
    """Base class of the judges' options, which checks the judge's name.

    Attributes:
        needs_text: Whether the judge compares the image with the pair's prompt; None: unknown.
    """

    needs_text: ClassVar[bool | None] = False

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem if the judge's name has a slash or has another meaning already."""
        yield from super().problems(where, config)
        name = where.removeprefix(f"{_JUDGES}.")
        if name in _TAKEN or "/" in name:
            reason = f"it stands for {_TAKEN[name]}" if name in _TAKEN else "it has a slash"
            yield f"`{where}`: choose another name; {reason}"


@dataclass(frozen=True, kw_only=True)
class ClipJudgeOptions(JudgeOptions):
    """Options of the CLIP score, those of the CLIP itself."""

    builder = "sgool.metrics.clip_score.build_clip_judge"
    needs_text = True

    model: str = required(text())
    pretrained: str | None = required(optional(text()))


@dataclass(frozen=True, kw_only=True)
class HPSJudgeOptions(JudgeOptions):
    """Options of the Human Preference Score."""

    builder = "sgool.metrics.preference.build_hps_judge"
    needs_text = True

    clip: Mapping[str, Any] = clip_option()

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of every judge, and one if the weights are missing."""
        yield from super().problems(where, config)
        yield from hps_problems(self.clip, where)


@dataclass(frozen=True, kw_only=True)
class PickScoreJudgeOptions(JudgeOptions):
    """Options of PickScore."""

    builder = "sgool.metrics.preference.build_pickscore_judge"
    needs_text = True

    model: str = required(text())
    processor: str = required(text())


@dataclass(frozen=True, kw_only=True)
class ImageRewardJudgeOptions(JudgeOptions):
    """Options of ImageReward."""

    builder = "sgool.metrics.preference.build_image_reward_judge"
    needs_text = True

    checkpoint: str = required(text())
    med_config: str | None = option(None, optional(text()))
    tokenizer: str = option("bert-base-uncased", text())

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of every judge, and one for each file that is missing."""
        yield from super().problems(where, config)
        yield from image_reward_problems(self.checkpoint, self.med_config, where)


@dataclass(frozen=True, kw_only=True)
class HPSv3JudgeOptions(JudgeOptions, HPSv3Options):
    """Options of HPSv3."""

    builder = "sgool.metrics.preference.build_hps_v3_judge"
    needs_text = True


@dataclass(frozen=True, kw_only=True)
class AestheticJudgeOptions(JudgeOptions):
    """Options of LAION's aesthetic rating."""

    builder = "sgool.metrics.preference.build_aesthetic_judge"

    clip: Mapping[str, Any] = clip_option()
    checkpoint: str = required(text())

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of every judge, and one if the head's file is missing."""
        yield from super().problems(where, config)
        yield from aesthetic_problems(self.checkpoint, where)


@dataclass(frozen=True, kw_only=True)
class VQAJudgeOptions(JudgeOptions, VisionLanguageOptions):
    """Options of VQAScore."""

    builder = "sgool.metrics.vqa.build_vqa_judge"
    needs_text = True

    template: str = required(TEMPLATE)
    answers: list[str] = required(list_of(text()))


@dataclass(frozen=True, kw_only=True)
class SoftTIFAJudgeOptions(JudgeOptions, VisionLanguageOptions):
    """Options of Soft-TIFA."""

    builder = "sgool.metrics.vqa.build_soft_tifa_judge"
    needs_text = True

    template: str = required(TEMPLATE)
    questions: str | None = option(None, optional(text()))


@dataclass(frozen=True, kw_only=True)
class GenEvalJudgeOptions(JudgeOptions):
    """Options of GenEval's checks of objects."""

    builder = "sgool.metrics.geneval.build_geneval_judge"
    needs_text = True

    detector: str = required(text())
    clip: Mapping[str, Any] = clip_option()
    threshold: float = option(0.3, number(least=0, most=1))
    counting_threshold: float = option(0.9, number(least=0, most=1))
    max_objects: int = option(16, integer(1))
    max_overlap: float = option(1.0, number(above=0, most=1))
    position_threshold: float = option(0.1, number(least=0))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of every judge, and one if the detector's folder is missing."""
        yield from super().problems(where, config)
        yield from folder_problems(self.detector, "a detector such as Mask2Former", f"{where}.detector")


@dataclass(frozen=True, kw_only=True)
class ImageJudgeOptions(JudgeOptions):
    """Options of the similarity to reference images."""

    builder = "sgool.metrics.similarity.build_image_judge"
    sees: ClassVar[tuple[str, ...]] = ("objective.terms",)

    clip: Mapping[str, Any] = clip_option()
    images: str | list[str] | None = option(None, optional(either(text(), list_of(text()))))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of every judge, and one for each missing image or if there are no images."""
        yield from super().problems(where, config)
        if self.images:
            yield from image_problems(self.images, f"{where}.images")
        elif not reference_files(None, config["objective"]["terms"]):
            yield (
                f"`{where}.images`: null stands for the reference images of the objective's image_alignment terms, and "
                f"it has no such term; give some with '{where}.images=[a.png,b.jpg]'"
            )


@dataclass(frozen=True, kw_only=True)
class PerceptualJudgeOptions(JudgeOptions):
    """Options of the distance to the first image in a network's features, or by LPIPS."""

    builder = "sgool.metrics.change.build_perceptual_judge"

    network: str = required(choice("local", *LPIPS))
    checkpoint: str | None = option(None, optional(text()))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of every judge, and one for a checkpoint that is missing or not used."""
        yield from super().problems(where, config)
        key = f"`{where}.checkpoint`"
        if self.network in LPIPS:
            if self.checkpoint is not None:
                yield (
                    f"{key}: expected null with network={self.network}, whose weights are torchvision's and "
                    f"torchmetrics', got {self.checkpoint!r}"
                )
        elif self.checkpoint is None:
            yield f"{key}: network=local needs one: a folder with config.json and model.safetensors"
        elif not Path(asset_path(self.checkpoint)).expanduser().is_dir():
            yield (
                f"{key}: expected a classifier's folder with config.json and model.safetensors, or "
                f"emoji_world/classifier, got {self.checkpoint!r} (relative paths start at {Path.cwd()})"
            )


@dataclass(frozen=True, kw_only=True)
class PixelsJudgeOptions(JudgeOptions):
    """Options of PSNR and SSIM to the first image; there are none."""

    builder = "sgool.metrics.change.build_pixels_judge"


@dataclass(frozen=True, kw_only=True)
class LatentsJudgeOptions(JudgeOptions):
    """Options of the ratio of the final latents' norm to that of the first latents; there are none."""

    builder = "sgool.metrics.change.build_latents_judge"


@dataclass(frozen=True, kw_only=True)
class CustomJudgeOptions(CustomOptions, JudgeOptions):
    """Options of a user's own judge."""

    needs_text = None


#: All judges. One without ``type`` is a CLIP, as in run folders that were made before there were other types.
JUDGES: Kind[JudgeOptions] = Kind(
    word="a judge",
    key="type",
    components={
        "clip": ClipJudgeOptions,
        "hps": HPSJudgeOptions,
        "pickscore": PickScoreJudgeOptions,
        "image_reward": ImageRewardJudgeOptions,
        "hps_v3": HPSv3JudgeOptions,
        "aesthetic": AestheticJudgeOptions,
        "vqa_score": VQAJudgeOptions,
        "soft_tifa": SoftTIFAJudgeOptions,
        "geneval": GenEvalJudgeOptions,
        "image": ImageJudgeOptions,
        "perceptual": PerceptualJudgeOptions,
        "pixels": PixelsJudgeOptions,
        "latents": LatentsJudgeOptions,
    },
    custom=CustomJudgeOptions,
    default="clip",
    docs="docs/metrics.md",
)


def complete_judges(judges: Any) -> None:
    """Expands CLIPs that are given by name alone, removes the type ``clip``, and writes the defaults, in place."""
    if not isinstance(judges, dict):
        return
    for name, judge in judges.items():
        judges[name] = judge = expand_clip(judge)
        if isinstance(judge, dict) and judge.get("type") == "clip":
            del judge["type"]
        JUDGES.complete(judge)


def judge_problems(judges: Mapping[str, Config], terms: Mapping[str, Config]) -> Iterator[str]:
    """Yields a problem for each missing file and each unusable name of judges whose single values are valid.

    Args:
        judges: The configuration's ``models.judges``, completed.
        terms: The configuration's ``objective.terms``.
    """
    for name, judge in judges.items():
        yield from JUDGES.problems(judge, f"{_JUDGES}.{name}", {"objective": {"terms": terms}})
