"""Terms of networks that score an image's content: classifiers, aesthetic predictors, models of human preference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.aesthetic import load_aesthetic
from sgool.models.checkpoints import read_state
from sgool.models.classifier import ImageClassifier, Source, load_classifier
from sgool.models.clip import ClipTower
from sgool.models.hps_v3 import load_hps_v3
from sgool.models.image_reward import load_image_reward
from sgool.models.networks import Networks
from sgool.models.preference import HumanPreferenceScore, load_pick_score
from sgool.objectives.terms import Goal, towards, view_size
from sgool.types import PromptSeed

Views = Literal["crops", "whole"]
#: Prefix of a classifier's `target` that names a column of the prompt file with each prompt's class.
COLUMN = "column:"


class Classification:
    """A term: cross-entropy of a view towards one class.

    Args:
        classifier: The classifier.
        target: Index of the class, see `ImageClassifier.class_index`; or the name of the column of the prompt file that
            holds each prompt's own class, by number or name.
        loss: ``cross_entropy`` (the class against the others) or ``binary_cross_entropy`` (each class by itself, mean
            over the classes, which also lowers the others' logits).
        name: Name in logs.
        views: What the term sees: "crops" (crops and regions) or the "whole" image.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        target: int | str,
        loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy",
        name: str = "classifier",
        views: Views = "crops",
    ) -> None:
        self.classifier, self.target, self.loss = classifier, target, loss
        self.name = name
        self.input_size = view_size(views, classifier.input_size)

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Returns the pairs' classes as a long tensor (B, 1).

        Raises:
            SgoolError: A prompt has no class in its column, or one that the classifier does not have.
        """
        device = self.classifier.preprocess.mean.device
        return torch.tensor([[self._class_of(pair)] for pair in pairs], dtype=torch.long, device=device)

    def _class_of(self, pair: PromptSeed) -> int:
        if isinstance(self.target, int):
            return self.target
        key, value = f"objective.terms.{self.name}.target", pair.metadata.get(self.target)
        if value is None:
            raise SgoolError(
                f"`{key}`: the prompt {pair.prompt!r} has no class in a column {self.target!r}; its other columns are: "
                f"{', '.join(pair.metadata) or 'none'}"
            )
        # A number in a CSV file arrives as text.
        number = str(value).isdecimal() and str(value) not in self.classifier.labels
        return self.classifier.class_index(int(value) if number else str(value), f"{key} of {pair.prompt!r}")

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (N,) of views (N, 3, s, s), or of whole images (N, 3, h, w), for classes (N, 1)."""
        # A whole image may have the size of the network's views by chance.
        logits = self.classifier.whole(views) if self.input_size is None else self.classifier(views)
        if self.loss == "cross_entropy":
            return F.cross_entropy(logits, targets[:, 0], reduction="none")
        wanted = torch.zeros_like(logits).scatter_(1, targets, 1.0)
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)


class Scorer(Protocol):
    """A frozen network that scores images for prompts."""

    @property
    def input_size(self) -> int:
        """Side in pixels of the images that the network sees."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encodes prompts as the rows of a tensor (B, D)."""
        ...

    def __call__(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Returns scores (N,) of images (N, 3, h, w) for encoded prompts (N, D)."""
        ...


class Score:
    """A term: a network's score, maximised, minimised or brought to a number.

    Args:
        scorer: The network.
        goal: ``maximize``, ``minimize``, or a number to aim at (the loss is the absolute difference).
        name: Name in logs.
        views: What the term sees: "crops" (crops and regions) or the "whole" image.
    """

    def __init__(self, scorer: Scorer, goal: Goal = "maximize", name: str = "score", views: Views = "whole") -> None:
        self.scorer, self.goal = scorer, goal
        self.name = name
        self.input_size = view_size(views, scorer.input_size)

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Encodes the pairs' prompts to (B, D), each by itself, so that rounding is the same in every batch."""
        return torch.cat([self.scorer.encode_prompts([pair.prompt]) for pair in pairs])

    def phrase_targets(self, phrases: Sequence[str]) -> Tensor | None:
        """Encodes phrases to (P, D), each by itself; None if the network reads no text (an aesthetic rating)."""
        if not hasattr(self.scorer, "truncated"):
            return None
        return torch.cat([self.scorer.encode_prompts([phrase]) for phrase in phrases])

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns no problem: any text can be read."""
        return []

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Returns for each prompt the text that the network does not read, or None."""
        truncated = getattr(self.scorer, "truncated", None)
        return truncated(prompts) if truncated else [None] * len(prompts)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (N,) of views (N, 3, s, s) for targets (N, D)."""
        return towards(self.scorer(views, targets), self.goal)


def build_classification(
    source: Source,
    model: str | None,
    checkpoint: str | None,
    labels: str | None,
    target: int | str,
    loss: Literal["cross_entropy", "binary_cross_entropy"],
    views: Views,
    name: str,
    networks: Networks,
) -> Classification:
    """Builds the term of a validated configuration from its options, those of `ClassifierOptions`."""
    classifier = networks.shared(
        ("classifier", source, model, checkpoint, labels),
        lambda: load_classifier(source, model, checkpoint, labels, device=networks.device),
    )
    if isinstance(target, str) and target.startswith(COLUMN):
        target = target.removeprefix(COLUMN).strip()
    else:
        target = classifier.class_index(target, f"objective.terms.{name}.target")
    return Classification(classifier, target, loss, name, views)


def build_aesthetic(
    clip: Mapping[str, Any], checkpoint: str, goal: Goal, views: Views, name: str, networks: Networks
) -> Score:
    """Builds the term of a validated configuration from its options, those of `AestheticOptions`."""
    tower = networks.clip(**clip)
    scorer = networks.shared(("aesthetic", checkpoint, *clip.values()), lambda: load_aesthetic(tower, checkpoint))
    return Score(scorer, goal, name, views)


def build_hps(clip: Mapping[str, Any], goal: Goal, views: Views, name: str, networks: Networks) -> Score:
    """Builds the term of a validated configuration from its options, those of `HPSOptions`."""
    return Score(HumanPreferenceScore(_hps_tower(clip, networks)), goal, name, views)


def _hps_tower(clip: Mapping[str, Any], networks: Networks) -> ClipTower:
    pretrained = clip["pretrained"]
    file = Path(pretrained).expanduser() if pretrained else None
    if file is None or not file.is_file():
        return networks.clip(**clip)
    try:
        return networks.clip(clip["model"], str(file))
    except (SgoolError, UnpicklingError):
        read_state(file)  # raises a clearer error if the file itself is the reason
        raise


def build_pickscore(model: str, processor: str, goal: Goal, views: Views, name: str, networks: Networks) -> Score:
    """Builds the term of a validated configuration from its options, those of `PickScoreOptions`."""
    scorer = networks.shared(
        ("pickscore", model, processor), lambda: load_pick_score(model, processor, device=networks.device)
    )
    return Score(scorer, goal, name, views)


def build_image_reward(
    checkpoint: str,
    med_config: str | None,
    tokenizer: str,
    goal: Goal,
    views: Views,
    name: str,
    networks: Networks,
) -> Score:
    """Builds the term of a validated configuration from its options, those of `ImageRewardOptions`."""
    scorer = networks.shared(
        ("image_reward", checkpoint, med_config, tokenizer),
        lambda: load_image_reward(checkpoint, med_config, tokenizer, device=networks.device),
    )
    return Score(scorer, goal, name, views)


def build_hps_v3(
    checkpoint: str, model: str, instruction: str | None, dtype: str, goal: Goal, name: str, networks: Networks
) -> Score:
    """Builds the term of a validated configuration from its options, those of `HPSv3TermOptions`."""
    scorer = networks.shared(
        ("hps_v3", checkpoint, model, instruction, dtype),
        lambda: load_hps_v3(checkpoint, model, instruction, dtype, device=networks.device),
    )
    return Score(scorer, goal, name)
