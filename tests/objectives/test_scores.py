"""Terms of classifiers and of networks that score images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sgool.models.classifier import ImageClassifier
from sgool.models.preprocess import Preprocess
from sgool.objectives import Classification, CropSettings, Objective, Score, Term, random_boxes
from sgool.objectives.crops import crop_resize
from sgool.objectives.terms import Goal
from sgool.types import PromptSeed

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2))


class Colours(nn.Module):
    """Three classes: the means of the channels, times 10."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.mean(dim=(2, 3))


@pytest.fixture
def classifier() -> ImageClassifier:
    return ImageClassifier(Colours(), Preprocess(8, [0.0] * 3, [1.0] * 3), "colours", ["red", "green", "blue"]).double()


def images(size: int = 8) -> Tensor:
    return torch.rand(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def logits(batch: Tensor) -> list[list[float]]:
    return (10 * batch.mean(dim=(2, 3))).tolist()


def test_cross_entropy(classifier: ImageClassifier) -> None:
    term = Classification(classifier, 2)
    assert isinstance(term, Term) and term.input_size == 8
    expected = [math.log(sum(map(math.exp, row))) - row[2] for row in logits(images())]
    assert term(images(), term.targets(PAIRS)).tolist() == pytest.approx(expected, rel=1e-12)


def test_binary_cross_entropy_is_the_mean_over_the_classes(classifier: ImageClassifier) -> None:
    term = Classification(classifier, 1, "binary_cross_entropy")
    expected = []
    for row in logits(images()):
        probabilities = [1 / (1 + math.exp(-value)) for value in row]
        terms = [-math.log(p) if index == 1 else -math.log(1 - p) for index, p in enumerate(probabilities)]
        expected.append(sum(terms) / 3)
    assert term(images(), term.targets(PAIRS)).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_classification_gradient(classifier: ImageClassifier, loss: str) -> None:
    term = Classification(classifier, 0, loss)  # type: ignore[arg-type]
    batch = images(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: term(x, term.targets(PAIRS)), (batch,))


def test_crops_differ_even_where_the_network_is_as_large_as_the_image() -> None:
    """A crop no smaller than the network's input would make every crop of a 512 pixel image the same."""
    boxes = random_boxes((512, 512), 16, torch.Generator().manual_seed(0))
    assert len(set(boxes)) == 16 and sum(box.height < 512 for box in boxes) >= 14
    image = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(1))
    views, _ = crop_resize(image, [boxes], 512)
    distances = torch.cdist(views.flatten(1), views.flatten(1)).fill_diagonal_(math.inf)
    assert float(distances.min()) > 1


class Brightness:
    """A scorer by hand: brightness, plus the length of the prompt."""

    input_size = 8

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        return torch.tensor([[float(len(prompt))] for prompt in prompts], dtype=torch.float64)

    def __call__(self, views: Tensor, prompts: Tensor) -> Tensor:
        return views.mean(dim=(1, 2, 3)) + prompts[:, 0]


@pytest.mark.parametrize(
    ("goal", "loss"), [("maximize", lambda s: -s), ("minimize", lambda s: s), (10, lambda s: abs(s - 10))]
)
def test_score_and_its_goal(goal: Goal, loss: object) -> None:
    term = Score(Brightness(), goal)
    assert isinstance(term, Term) and term.input_size is None
    scores = [float(image.mean()) + len(pair.prompt) for image, pair in zip(images(), PAIRS, strict=True)]
    assert term(images(), term.targets(PAIRS)).tolist() == pytest.approx([loss(s) for s in scores])  # type: ignore[operator]
    assert term.truncated(["a", "b"]) == [None, None]


def test_views_choose_between_crops_and_the_whole_image() -> None:
    assert Score(Brightness(), views="crops").input_size == 8
    term = Score(Brightness(), "minimize")
    objective = Objective({"a": term}, {"a": 2.0}, CropSettings(num=5)).bind(PAIRS)
    batch = images(20)
    output = objective(batch, [torch.Generator().manual_seed(i) for i in range(2)], 0)
    torch.testing.assert_close(output.loss, 2 * term(batch, term.targets(PAIRS)))
