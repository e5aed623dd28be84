"""Judges as the configuration names them: options, and the files that they need.

Nothing here imports torch: the configuration is checked with it before a network loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sgool.config.kinds import Kind
from sgool.config.options import Config, CustomOptions, Options, option, required
from sgool.config.paths import asset_path
from sgool.config.rules import check, choice, either, list_of, optional, text
from sgool.errors import ConfigError
from sgool.models.options import clip_option, expand_clip
from sgool.objectives.files import aesthetic_problems, hps_problems, image_problems, image_reward_problems

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
    """What every judge has: a name of its own."""

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """A name that is taken."""
        yield from super().problems(where, config)
        name = where.removeprefix(f"{_JUDGES}.")
        if name in _TAKEN or "/" in name:
            reason = f"it stands for {_TAKEN[name]}" if name in _TAKEN else "it has a slash"
            yield f"`{where}`: choose another name; {reason}"


@dataclass(frozen=True, kw_only=True)
class ClipJudgeOptions(JudgeOptions):
    """CLIP score; the judge itself is the CLIP."""

    builder = "sgool.metrics.clip_score.build_clip_judge"

    model: str = required(text())
    pretrained: str | None = required(optional(text()))


@dataclass(frozen=True, kw_only=True)
class HPSJudgeOptions(JudgeOptions):
    """Human Preference Score."""

    builder = "sgool.metrics.preference.build_hps_judge"

    clip: Mapping[str, Any] = clip_option()

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Also weights that are missing."""
        yield from super().problems(where, config)
        yield from hps_problems(self.clip, where)


@dataclass(frozen=True, kw_only=True)
class PickScoreJudgeOptions(JudgeOptions):
    """PickScore."""

    builder = "sgool.metrics.preference.build_pickscore_judge"

    model: str = required(text())
    processor: str = required(text())


@dataclass(frozen=True, kw_only=True)
class ImageRewardJudgeOptions(JudgeOptions):
    """ImageReward."""

    builder = "sgool.metrics.preference.build_image_reward_judge"

    checkpoint: str = required(text())
    med_config: str | None = option(None, optional(text()))
    tokenizer: str = option("bert-base-uncased", text())

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Also files that are missing."""
        yield from super().problems(where, config)
        yield from image_reward_problems(self.checkpoint, self.med_config, where)


@dataclass(frozen=True, kw_only=True)
class AestheticJudgeOptions(JudgeOptions):
    """LAION's aesthetic rating."""

    builder = "sgool.metrics.preference.build_aesthetic_judge"

    clip: Mapping[str, Any] = clip_option()
    checkpoint: str = required(text())

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Also a head that is missing."""
        yield from super().problems(where, config)
        yield from aesthetic_problems(self.checkpoint, where)


@dataclass(frozen=True, kw_only=True)
class ImageJudgeOptions(JudgeOptions):
    """Likeness to reference images."""

    builder = "sgool.metrics.similarity.build_image_judge"
    sees: ClassVar[tuple[str, ...]] = ("objective.terms",)

    clip: Mapping[str, Any] = clip_option()
    images: str | list[str] | None = option(None, optional(either(text(), list_of(text()))))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Also images that are missing, or none at all."""
        yield from super().problems(where, config)
        if self.images:
            yield from image_problems(self.images, f"{where}.images")
        elif not reference_images(None, config["objective"]["terms"]):
            yield (
                f"`{where}.images`: null stands for the reference images of the objective's image_alignment terms, and "
                f"it has no such term; give some with {where}.images=[a.png,b.jpg]"
            )


@dataclass(frozen=True, kw_only=True)
class PerceptualJudgeOptions(JudgeOptions):
    """Distance to the first image in a network's features, or LPIPS."""

    builder = "sgool.metrics.change.build_perceptual_judge"

    network: str = required(choice("local", *LPIPS))
    checkpoint: str | None = option(None, optional(text()))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Also a checkpoint that is missing, or that the network does not use."""
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
    """PSNR and SSIM to the first image."""

    builder = "sgool.metrics.change.build_pixels_judge"


@dataclass(frozen=True, kw_only=True)
class LatentsJudgeOptions(JudgeOptions):
    """Norm of the kept latents over that of the first ones."""

    builder = "sgool.metrics.change.build_latents_judge"


@dataclass(frozen=True, kw_only=True)
class CustomJudgeOptions(CustomOptions, JudgeOptions):
    """A judge of the user's own."""


#: A judge. Without ``type`` it is a CLIP, as in run folders that were made before there were others.
JUDGES: Kind[JudgeOptions] = Kind(
    word="a judge",
    key="type",
    components={
        "clip": ClipJudgeOptions,
        "hps": HPSJudgeOptions,
        "pickscore": PickScoreJudgeOptions,
        "image_reward": ImageRewardJudgeOptions,
        "aesthetic": AestheticJudgeOptions,
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
    """Writes short forms in full, in place: a CLIP by its name alone, and what a judge may leave out.

    A judge of type ``clip`` stays without its type, so that the same judge is written in one way.
    """
    if not isinstance(judges, dict):
        return
    for name, judge in judges.items():
        judges[name] = judge = expand_clip(judge)
        if isinstance(judge, dict) and judge.get("type") == "clip":
            del judge["type"]
        JUDGES.complete(judge)


def judge_problems(judges: Mapping[str, Config], terms: Mapping[str, Config]) -> Iterator[str]:
    """What is missing on the disk, and names that are taken, of judges whose single values are sound.

    Args:
        judges: The configuration's ``models.judges``, completed.
        terms: Its ``objective.terms``.
    """
    for name, judge in judges.items():
        yield from JUDGES.problems(judge, f"{_JUDGES}.{name}", {"objective": {"terms": terms}})


def reference_images(images: str | list[str] | None, terms: Mapping[str, Config]) -> list[str]:
    """The files that a judge of type ``image`` compares with: its own, else those of the objective."""
    given = [images] if images else []
    given = given or [term["images"] for term in terms.values() if term.get("type") == "image_alignment"]
    files = [[entry] if isinstance(entry, str) else entry for entry in given]
    return list(dict.fromkeys(path for paths in files for path in paths))


def checked_judges(config: Config) -> dict[str, Any]:
    """``models.judges`` of a run folder's configuration, which somebody may have edited, in full and checked.

    Raises:
        ConfigError: Everything wrong with it.
    """
    given = config.get("models", {}).get("judges")
    given = given if isinstance(given, Mapping) else {}
    judges = {name: dict(judge) if isinstance(judge, Mapping) else judge for name, judge in given.items()}
    complete_judges(judges)
    problems = [
        found.text for name, judge in judges.items() for found in check(judge, JUDGES.schema, f"{_JUDGES}.{name}")
    ]
    problems = problems or list(judge_problems(judges, config["objective"]["terms"]))
    if problems:
        raise ConfigError(problems)
    return judges
