"""The term of a vision-language model that answers questions about the image: VQAScore and Soft-TIFA."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.networks import Networks
from sgool.models.vlm import VisionLanguageModel, load_vision_language
from sgool.objectives.questions import Asked, ColumnQuestions, PromptQuestion, Questions
from sgool.types import PromptSeed

#: Bytes of a pair's questions, so that the targets of all pairs have the same shape.
_WIDTH = 16384


class Answering:
    """A term: the mean over a pair's questions of -log P(expected answer), or of -log(1 - P) to avoid it.

    With one question it is -log of VQAScore; with a column of questions, -log of Soft-TIFA's geometric mean. It sees
    the whole image, as the model does.

    Args:
        network: The model.
        questions: The questions about each pair's image.
        goal: ``maximize`` or ``minimize`` the probability.
        name: Name in logs.

    Raises:
        SgoolError: The model's image processor is none whose pixels can be computed with a gradient.
    """

    input_size: int | None = None

    def __init__(
        self,
        network: VisionLanguageModel,
        questions: Questions,
        goal: Literal["maximize", "minimize"] = "maximize",
        name: str = "vqa_score",
    ) -> None:
        try:
            network.check_differentiable()
        except SgoolError as error:
            raise SgoolError(f"`objective.terms.{name}.model`: {error}") from error
        self.network, self.questions, self.goal, self.name = network, questions, goal, name

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Writes the pairs' questions, as JSON in UTF-8, into the rows of a uint8 tensor (B, 16384).

        Raises:
            SgoolError: A pair has no questions, or more than fit.
        """
        rows = torch.zeros(len(pairs), _WIDTH, dtype=torch.uint8)
        for row, pair in zip(rows, pairs, strict=True):
            asked = [[one.question, one.answers] for one in self.questions(pair)]
            text = json.dumps(asked, ensure_ascii=False).encode()
            if len(text) > _WIDTH:
                raise SgoolError(
                    f"`objective.terms.{self.name}`: the questions of {pair.prompt!r} have {len(text):,} bytes; "
                    f"expected at most {_WIDTH:,}"
                )
            row[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        return rows.to(next(self.network.parameters()).device)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (N,) of whole images (N, 3, h, w) for targets (N, 16384)."""
        return torch.stack([self._loss(view, _read(row)) for view, row in zip(views, targets, strict=True)])

    def _loss(self, image: Tensor, asked: Sequence[Asked]) -> Tensor:
        logs = [self.network.log_probability(image, one.question, one.answers) for one in asked]
        return -torch.stack([wanted if self.goal == "maximize" else rest for wanted, rest in logs]).mean()


def shared_model(model: str, dtype: str, networks: Networks) -> VisionLanguageModel:
    """Returns the run's vision-language model of these options, which terms and judges share."""
    return networks.shared(
        ("vision_language", model, dtype), lambda: load_vision_language(model, dtype, device=networks.device)
    )


def build_vqa_score(
    model: str,
    dtype: str,
    template: str,
    answers: list[str],
    goal: Literal["maximize", "minimize"],
    name: str,
    networks: Networks,
) -> Answering:
    """Builds the term of a validated configuration from its options, those of `VQAScoreOptions`."""
    return Answering(shared_model(model, dtype, networks), PromptQuestion(template, tuple(answers)), goal, name)


def build_soft_tifa(
    model: str,
    dtype: str,
    template: str,
    questions: str | None,
    goal: Literal["maximize", "minimize"],
    name: str,
    networks: Networks,
) -> Answering:
    """Builds the term of a validated configuration from its options, those of `SoftTIFAOptions`."""
    column = ColumnQuestions(questions, template, f"objective.terms.{name}")
    return Answering(shared_model(model, dtype, networks), column, goal, name)


def _read(row: Tensor) -> list[Asked]:
    text = bytes(row.tolist()).rstrip(b"\0").decode()
    return [Asked(question, tuple(answers)) for question, answers in json.loads(text)]
