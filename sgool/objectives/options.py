"""Options and capabilities of an objective's terms, and the files that they need.

Nothing here imports torch, so that a configuration can be checked before a network loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sgool.config.kinds import Kind
from sgool.config.locate import module_problems
from sgool.config.options import Config, CustomOptions, Options, option, required
from sgool.config.paths import asset_path, file_problems
from sgool.config.rules import Each, Schema, choice, dotted, either, integer, list_of, number, optional, text
from sgool.models.options import TEMPLATE, HPSv3Options, VisionLanguageOptions, clip_option
from sgool.objectives.files import CLASSIFIERS, aesthetic_problems, hps_problems, image_problems, image_reward_problems
from sgool.objectives.rules import BOX, GOAL, RGB, VIEWS


@dataclass(frozen=True, kw_only=True)
class TermOptions(Options):
    """Options of every term, and its capability.

    Attributes:
        needs_text: Whether the term compares the image with the pair's prompt, which then must not be empty.
    """

    needs_text: ClassVar[bool | None] = False

    weight: float = option(1.0, number())


@dataclass(frozen=True, kw_only=True)
class TextAlignmentOptions(TermOptions):
    """Options of the distance to the prompt in a CLIP's space."""

    builder = "sgool.objectives.alignment.build_text_alignment"
    needs_text = True

    clip: Mapping[str, Any] = clip_option()
    views: str = option("crops", VIEWS)


@dataclass(frozen=True, kw_only=True)
class ImageAlignmentOptions(TermOptions):
    """Options of the distance to reference images in a CLIP's space."""

    builder = "sgool.objectives.alignment.build_image_alignment"

    clip: Mapping[str, Any] = clip_option()
    images: str | list[str] = required(either(text(), list_of(text())))
    views: str = option("crops", VIEWS)
    reference_interpolation: str = option("own", choice("own", "bilinear", "bilinear_antialiased"))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem for each image that is missing."""
        yield from image_problems(self.images, f"{where}.images")


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(TermOptions):
    """Options of the term for a class of an image classifier."""

    builder = "sgool.objectives.scores.build_classification"

    source: str = required(choice("timm", "torchvision", "wsdan", "local"))
    model: str | None = option(None, optional(text()))
    checkpoint: str | None = option(None, optional(text()))
    labels: str | None = option(None, optional(text()))
    target: int | str = required(either(integer(0), text()))
    loss: str = option("cross_entropy", choice("cross_entropy", "binary_cross_entropy"))
    views: str = option("crops", VIEWS)

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem for each key that the source needs or does not use, and for each missing file."""
        for entry, what in CLASSIFIERS[self.source].items():
            value = getattr(self, entry)
            if what is None and value is not None:
                yield f"`{where}.{entry}`: expected null with source={self.source}, got {value!r}"
            elif what is not None and value is None:
                yield f"`{where}.{entry}`: source={self.source} needs one: {what}"
        if self.checkpoint is not None and self.source == "local":
            if not Path(asset_path(self.checkpoint)).expanduser().is_dir():
                yield (
                    f"`{where}.checkpoint`: expected a folder with config.json and model.safetensors, got "
                    f"{self.checkpoint!r}"
                )
        elif self.checkpoint is not None:
            what = CLASSIFIERS[self.source].get("checkpoint") or "weights in that model's layout"
            yield from file_problems(self.checkpoint, what, f"{where}.checkpoint")
        if self.labels is not None:
            yield from file_problems(self.labels, "a text file with one class name a line", f"{where}.labels")


@dataclass(frozen=True, kw_only=True)
class AestheticOptions(TermOptions):
    """Options of LAION's aesthetic rating."""

    builder = "sgool.objectives.scores.build_aesthetic"

    clip: Mapping[str, Any] = clip_option()
    checkpoint: str = required(text())
    goal: str | float = option("maximize", GOAL)
    views: str = option("crops", VIEWS)

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem if the head's file is missing."""
        yield from aesthetic_problems(self.checkpoint, where)


@dataclass(frozen=True, kw_only=True)
class HPSOptions(TermOptions):
    """Options of the Human Preference Score."""

    builder = "sgool.objectives.scores.build_hps"
    needs_text = True

    clip: Mapping[str, Any] = clip_option()
    goal: str | float = option("maximize", GOAL)
    views: str = option("whole", VIEWS)

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem if the weights are missing."""
        yield from hps_problems(self.clip, where)


@dataclass(frozen=True, kw_only=True)
class PickScoreOptions(TermOptions):
    """Options of PickScore."""

    builder = "sgool.objectives.scores.build_pickscore"
    needs_text = True

    model: str = required(text())
    processor: str = required(text())
    goal: str | float = option("maximize", GOAL)
    views: str = option("whole", VIEWS)


@dataclass(frozen=True, kw_only=True)
class ImageRewardOptions(TermOptions):
    """Options of ImageReward."""

    builder = "sgool.objectives.scores.build_image_reward"
    needs_text = True

    checkpoint: str = required(text())
    med_config: str | None = option(None, optional(text()))
    tokenizer: str = option("bert-base-uncased", text())
    goal: str | float = option("maximize", GOAL)
    views: str = option("whole", VIEWS)

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem for each file that is missing."""
        yield from image_reward_problems(self.checkpoint, self.med_config, where)


@dataclass(frozen=True, kw_only=True)
class HPSv3TermOptions(HPSv3Options, TermOptions):
    """Options of HPSv3."""

    builder = "sgool.objectives.scores.build_hps_v3"
    needs_text = True

    goal: str | float = option("maximize", GOAL)


@dataclass(frozen=True, kw_only=True)
class VQAScoreOptions(VisionLanguageOptions, TermOptions):
    """Options of a vision-language model's answer to whether the image shows the prompt."""

    builder = "sgool.objectives.vqa.build_vqa_score"
    needs_text = True

    template: str = required(TEMPLATE)
    answers: list[str] = required(list_of(text()))
    goal: str = option("maximize", choice("maximize", "minimize"))


@dataclass(frozen=True, kw_only=True)
class SoftTIFAOptions(VisionLanguageOptions, TermOptions):
    """Options of a vision-language model's answers to the questions of a column."""

    builder = "sgool.objectives.vqa.build_soft_tifa"

    template: str = required(TEMPLATE)
    questions: str | None = option(None, optional(text()))
    goal: str = option("maximize", choice("maximize", "minimize"))


@dataclass(frozen=True, kw_only=True)
class SymmetryOptions(TermOptions):
    """Options of the difference to the mirror image."""

    builder = "sgool.objectives.pixels.Symmetry"

    axis: str = option("horizontal", choice("horizontal", "vertical"))


@dataclass(frozen=True, kw_only=True)
class ColorOptions(TermOptions):
    """Options of the difference of the mean colour to a target."""

    builder = "sgool.objectives.pixels.Color"

    rgb: list[float] = required(RGB)
    region: list[float] | None = option(None, optional(BOX))


@dataclass(frozen=True, kw_only=True)
class SharpnessOptions(TermOptions):
    """Options of the mean square of the Laplacian."""

    builder = "sgool.objectives.pixels.Sharpness"

    goal: str | float = option("maximize", GOAL)


@dataclass(frozen=True, kw_only=True)
class BlackBoxOptions(TermOptions):
    """Options of the term for any function of the image."""

    builder = "sgool.objectives.black_box.build_black_box"

    function: str = required(dotted())
    goal: str | float = option("maximize", GOAL)
    gradient: str = option("spsa", choice("spsa", "none"))
    probes: int = option(8, integer(1))
    sigma: float = option(0.05, number(above=0, most=1))
    frequencies: int = option(8, integer(1))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem if the function's module cannot be found."""
        yield from module_problems(self.function, f"{where}.function")


@dataclass(frozen=True, kw_only=True)
class CustomTermOptions(CustomOptions, TermOptions):
    """Options of a user's own term."""

    needs_text = None


TERMS: Kind[TermOptions] = Kind(
    word="a term",
    key="type",
    components={
        "text_alignment": TextAlignmentOptions,
        "image_alignment": ImageAlignmentOptions,
        "classifier": ClassifierOptions,
        "aesthetic": AestheticOptions,
        "hps": HPSOptions,
        "pickscore": PickScoreOptions,
        "image_reward": ImageRewardOptions,
        "hps_v3": HPSv3TermOptions,
        "vqa_score": VQAScoreOptions,
        "soft_tifa": SoftTIFAOptions,
        "symmetry": SymmetryOptions,
        "color": ColorOptions,
        "sharpness": SharpnessOptions,
        "black_box": BlackBoxOptions,
    },
    custom=CustomTermOptions,
    parts=("name", "input_size", "targets", "__call__"),
    docs="docs/objectives.md",
)

#: Rules of the configuration's ``objective``.
OBJECTIVE: dict[str, Schema] = {
    "terms": Each(TERMS.schema, at_least=1),
    "crops": {
        "num": integer(0),
        "power": number(above=0),
        "min_side": number(above=0, most=1),
        "reduction": choice("min", "mean"),
    },
    "frames": either(choice("all"), integer(1)),
}
#: What keys of ``objective`` are where a file of the user's own leaves them out.
OBJECTIVE_DEFAULTS: dict[str, Any] = {"frames": "all"}


def complete_term(term: Any) -> None:
    """Writes the defaults of a term's mapping in place; a term without a type is a text_alignment."""
    if isinstance(term, dict) and "_target_" not in term:
        term.setdefault("type", "text_alignment")
    TERMS.complete(term)
