"""Judges that ask a vision-language model: VQAScore (Lin et al. 2024) and Soft-TIFA (Kamath et al. 2025)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sgool.metrics.base import PairScore, TextScore
from sgool.metrics.clip_score import check_number
from sgool.models.networks import Networks
from sgool.models.vlm import VisionLanguageModel
from sgool.objectives.questions import Asked, ColumnQuestions, PromptQuestion
from sgool.objectives.vqa import shared_model
from sgool.types import PromptSeed


class Questioner:
    """Asks a model, and keeps the answers about the last images, which several metrics of a judge share.

    Args:
        network: The model.
    """

    def __init__(self, network: VisionLanguageModel) -> None:
        self._network = network
        self._answers: dict[tuple[str, Asked], float] = {}

    def probabilities(self, images: Tensor, asked: Sequence[Sequence[Asked]]) -> list[list[float]]:
        """Returns for each image (3, H, W) of (B, 3, H, W), and each of its questions, P(expected answer) in [0, 1]."""
        names = [image_digest(image) for image in images]
        kept: dict[tuple[str, Asked], float] = {}
        for name, image, questions in zip(names, images, asked, strict=True):
            for one in questions:
                key = (name, one)
                kept[key] = self._answers[key] if key in self._answers else self._ask(image, one)
        self._answers = kept
        return [[kept[name, one] for one in questions] for name, questions in zip(names, asked, strict=True)]

    def _ask(self, image: Tensor, asked: Asked) -> float:
        return self._network.probability(image, asked.question, asked.answers)


def image_digest(image: Tensor) -> str:
    """Returns a hash of an image's 8-bit levels and shape."""
    levels = (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8).contiguous()
    return hashlib.sha256(str(tuple(levels.shape)).encode() + levels.numpy().tobytes()).hexdigest()


class VQAScore(TextScore):
    """Mean probability, in [0, 1], that a vision-language model affirms that the image shows the prompt.

    Lin et al. 2024 (arXiv 2404.01291), equation 1: P("Yes" | image, question). Images are rounded to 8 bits, and the
    model's own processor resizes them.

    Args:
        network: The model, or what asks it.
        template: The question, with {} in place of the prompt; the default is the paper's.
        answers: Spellings of "yes"; the probabilities of their first tokens add up, each token once.
    """

    key, title, digits, place = "vqa_score", "VQAScore", 3, 5
    higher_is_better = True

    def __init__(
        self,
        network: VisionLanguageModel | Questioner,
        template: str = 'Does this figure show "{}"? Please answer yes or no.',
        answers: Sequence[str] = ("Yes",),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._questioner = (_questioner(network),)
        self._question = PromptQuestion(template, tuple(answers))

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores (B,), float64, of images (B, 3, H, W) in [0, 1] for B prompts.

        Raises:
            ValueError: The numbers of images and prompts differ.
            SgoolError: The model's processor refuses the images' size.
        """
        check_number(images, prompts)
        asked = [self._question(PromptSeed(prompt)) for prompt in prompts]
        found = self._questioner[0].probabilities(images, asked)
        return torch.tensor([value for (value,) in found], dtype=torch.float64)


class SoftTIFA(PairScore):
    """Mean over images of the mean probability, in [0, 1], of the expected answers to a prompt's questions.

    Kamath et al. 2025 (arXiv 2512.16853, GenEval 2). The arithmetic mean over an image's questions says how many of its
    details are right, the geometric mean whether all are. Published tables show 100 times the value.

    Args:
        network: The model, or what asks it.
        mean: "arithmetic" or "geometric".
        questions: The questions about each pair's image; None: those of the columns ``vqa_list`` or ``questions``.
    """

    higher_is_better = True
    digits, scale = 1, 100.0

    def __init__(
        self,
        network: VisionLanguageModel | Questioner,
        mean: Literal["arithmetic", "geometric"] = "geometric",
        questions: ColumnQuestions | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._questioner = (_questioner(network),)
        self._questions = questions or ColumnQuestions(None, "{} Answer in one word.", "models.judges.soft_tifa")
        self._geometric = mean == "geometric"
        self.key = "soft_tifa_gm" if self._geometric else "soft_tifa_am"  # type: ignore[misc]
        self.title, self.place = ("Soft-TIFA GM", 6) if self._geometric else ("Soft-TIFA AM", 7)

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns a sentence for each pair without questions."""
        return self._questions.problems(pairs)

    def score(self, images: Tensor, pairs: Sequence[PromptSeed]) -> Tensor:
        """Returns scores (B,), float64, of images (B, 3, H, W) in [0, 1] for B pairs.

        Raises:
            ValueError: The numbers of images and pairs differ.
            SgoolError: A pair has no questions, or the model's processor refuses the images' size.
        """
        check_number(images, [pair.prompt for pair in pairs])
        found = self._questioner[0].probabilities(images, [self._questions(pair) for pair in pairs])
        rows = [torch.tensor(row, dtype=torch.float64) for row in found]
        return torch.stack([row.log().mean().exp() if self._geometric else row.mean() for row in rows])


def _questioner(network: VisionLanguageModel | Questioner) -> Questioner:
    return network if isinstance(network, Questioner) else Questioner(network)


def build_vqa_judge(model: str, dtype: str, template: str, answers: list[str], networks: Networks) -> list[VQAScore]:
    """Builds the judge of a validated configuration from its options, those of `VQAJudgeOptions`."""
    return [VQAScore(shared_model(model, dtype, networks), template, answers)]


def build_soft_tifa_judge(
    model: str, dtype: str, template: str, questions: str | None, name: str, networks: Networks
) -> list[SoftTIFA]:
    """Builds the judge of a validated configuration from its options, those of `SoftTIFAJudgeOptions`."""
    questioner = Questioner(shared_model(model, dtype, networks))
    column = ColumnQuestions(questions, template, f"models.judges.{name}")
    return [SoftTIFA(questioner, "arithmetic", column), SoftTIFA(questioner, "geometric", column)]
