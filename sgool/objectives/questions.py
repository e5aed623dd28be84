"""Questions about an image: the one of VQAScore, and those of a prompt's own column, as in Soft-TIFA."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgool.errors import SgoolError
from sgool.types import PromptSeed

#: Columns with a prompt's questions, if the configuration names none; the first that a prompt has.
QUESTION_COLUMNS = ("vqa_list", "questions")
_YES = ("Yes", "yes", " yes", " Yes")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Asked:
    """A question, and the spellings of the answer whose probabilities add up.

    Attributes:
        question: The whole text that the model gets beside the image.
        answers: Spellings of the expected answer.
    """

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class PromptQuestion:
    """VQAScore's question (Lin et al. 2024): does the image show the prompt?

    Attributes:
        template: The question, with {} in place of the prompt.
        answers: Spellings of "yes".
    """

    template: str
    answers: tuple[str, ...]

    def __call__(self, pair: PromptSeed) -> list[Asked]:
        """Returns the one question about a pair's image."""
        return [Asked(self.template.replace("{}", pair.prompt), self.answers)]

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns no problem: every prompt can be asked for."""
        return []


@dataclass(frozen=True)
class ColumnQuestions:
    """The questions of a column of the prompt file, asked as GenEval 2's Soft-TIFA does (Kamath et al. 2025).

    A cell is a list, or its JSON. An item is a question, whose answer is yes, or a question with its answer:
    ``["How many cows are there?", "two"]``. The spellings that add up are, for yes, "Yes" and "yes" with and without a
    space before them; for another answer, it and its capitalised form with and without a space, and for one to ten
    also the digits.

    Attributes:
        column: Name of the column; None: the first of `QUESTION_COLUMNS` that a prompt has.
        template: What the model is asked, with {} in place of the question.
        where: Dotted key of the configuration, for messages.
    """

    column: str | None
    template: str
    where: str

    def __call__(self, pair: PromptSeed) -> list[Asked]:
        """Returns the questions about a pair's image.

        Raises:
            SgoolError: The pair has no questions, or its cell is no list of questions.
        """
        names = QUESTION_COLUMNS if self.column is None else (self.column,)
        cell = next((pair.metadata[name] for name in names if pair.metadata.get(name) is not None), None)
        if cell is None:
            raise SgoolError(
                f"`{self.where}.questions`: the prompt {pair.prompt!r} has no questions in a column "
                f"{' or '.join(names)}; its other columns are: {', '.join(pair.metadata) or 'none'}"
            )
        items = _items(cell)
        if not items:
            raise SgoolError(
                f"`{self.where}.questions`: the prompt {pair.prompt!r}: expected a list of questions, each a text or "
                f'["How many cows are there?", "two"], got {str(cell)[:120]!r}'
            )
        return [Asked(self.template.replace("{}", question), _spellings(answer)) for question, answer in items]

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns a sentence for each pair without questions."""
        found = []
        for pair in pairs:
            try:
                self(pair)
            except SgoolError as error:
                found.append(str(error))
        return found


Questions = PromptQuestion | ColumnQuestions


def _items(cell: Any) -> list[tuple[str, str]]:
    """Reads questions and answers; empty if the cell holds something else."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return []
    if isinstance(cell, (str, Mapping)) or not hasattr(cell, "__iter__"):
        return []
    items = [_item(item) for item in cell]
    return [] if None in items else [item for item in items if item]


def _item(item: Any) -> tuple[str, str] | None:
    if isinstance(item, Mapping):
        item = [item.get("question"), item.get("answer", "Yes")]
    pair = [item, "Yes"] if isinstance(item, str) else list(item) if hasattr(item, "__iter__") else []
    valid = len(pair) == 2 and all(isinstance(text, str) and text.strip() for text in pair)
    return (pair[0].strip(), pair[1].strip()) if valid else None


def _spellings(answer: str) -> tuple[str, ...]:
    if answer.lower() == "yes":
        return _YES
    words = [answer, answer.capitalize(), f" {answer}", f" {answer.capitalize()}"]
    digits = str(_NUMBERS.index(answer.lower()) + 1) if answer.lower() in _NUMBERS else None
    return tuple(words if digits is None else [*words, digits, f" {digits}"])
