from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torchvision.transforms import CenterCrop, Compose, Resize

from sgool.errors import SgoolError
from sgool.models.clip import ClipTower
from sgool.objectives import (
    CropSettings,
    ImageAlignment,
    Objective,
    SaliencySettings,
    Term,
    TextAlignment,
    spherical_distance,
)
from sgool.objectives.terms import Goal, towards
from sgool.saliency import FixedSaliency
from sgool.types import PromptSeed
from tests.photos import as_batch, photo

PAIRS = (PromptSeed("a red cat"), PromptSeed("two green trees"), PromptSeed("an elephant"))


def test_targets_are_the_prompts_embeddings(clip_tower: ClipTower) -> None:
    term = TextAlignment(clip_tower)
    assert isinstance(term, Term)
    assert (term.name, term.input_size) == ("text", 32)
    # float32: a batch and single rows are multiplied in differently sized blocks.
    torch.testing.assert_close(term.targets(PAIRS), clip_tower.encode_text([pair.prompt for pair in PAIRS]))


def test_targets_do_not_depend_on_batch_mates_to_the_last_bit(clip_tower: ClipTower) -> None:
    term = TextAlignment(clip_tower)
    assert torch.equal(term.targets(PAIRS)[1:2], term.targets(PAIRS[1:2]))


def test_loss_is_half_the_squared_angle_to_the_prompt(wordpiece_tower: ClipTower) -> None:
    term = TextAlignment(wordpiece_tower, name="judge")
    views = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    targets = term.targets(PAIRS)
    cosines = (wordpiece_tower.encode_image(views) * targets).sum(-1)
    expected = [math.acos(value) ** 2 / 2 for value in cosines.tolist()]
    # float32 embeddings: 1e-7 in the cosine.
    torch.testing.assert_close(term(views, targets), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_descending_the_gradient_lowers_the_loss(clip_tower: ClipTower) -> None:
    term = TextAlignment(clip_tower)
    views = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    targets = term.targets(PAIRS)
    loss = term(views, targets)
    (gradient,) = torch.autograd.grad(loss.sum(), views)
    with torch.no_grad():
        moved = term(views - 0.01 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1), targets)
    assert (moved < loss).all()


def test_whole_views_are_resized_by_the_tower_itself(clip_tower: ClipTower) -> None:
    term = TextAlignment(clip_tower, views="whole")
    assert term.input_size is None
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    targets = term.targets(PAIRS[:2])
    expected = spherical_distance(clip_tower.encode_image(images), targets)
    assert torch.equal(term(images, targets), expected)


def reference(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def test_image_alignment_is_the_distance_to_the_normalised_mean(clip_tower: ClipTower) -> None:
    images = reference((32, 32), (40, 56))
    term = ImageAlignment(clip_tower, images)
    assert isinstance(term, Term) and (term.name, term.input_size) == ("image", 32)
    embeds = torch.cat([clip_tower.encode_image(image[None]) for image in images])
    mean = embeds.mean(dim=0)
    targets = term.targets(PAIRS)
    torch.testing.assert_close(targets, (mean / mean.norm()).expand(3, -1))
    views = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = term(views, targets)
    torch.testing.assert_close(loss, spherical_distance(clip_tower.encode_image(views), targets))
    loss.sum().backward()
    assert views.grad is not None and (views.grad.flatten(1).norm(dim=1) > 0).all()


def test_image_alignment_with_one_image_is_zero_at_that_image(clip_tower: ClipTower) -> None:
    (image,) = reference((32, 32))
    term = ImageAlignment(clip_tower, [image])
    # float32 unit vectors: 1e-7 in the angle, squared.
    assert float(term(image[None], term.targets(PAIRS[:1]))) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("antialias", [False, True])
def test_references_are_resized_as_doodl_does(clip_tower: ClipTower, antialias: bool) -> None:
    """Its ``load_transform``: ToTensor, Resize, CenterCrop. Its torchvision, 0.12, does not anti-alias tensors."""
    images = [as_batch(photo(*size))[0] for size in ((80, 48), (20, 31), (37, 53), (32, 32))]
    transform = Compose([Resize(32, antialias=antialias), CenterCrop(32)])
    shown = torch.stack([transform(image) for image in images])
    embeds = torch.cat([clip_tower.encode_image(image[None]) for image in shown])
    name: Any = "bilinear_antialiased" if antialias else "bilinear"
    term = ImageAlignment(clip_tower, images, reference_interpolation=name)
    target = torch.nn.functional.normalize(embeds.mean(dim=0), dim=0)
    # The same pixels through the same network.
    torch.testing.assert_close(term.targets(PAIRS)[0], target, atol=1e-6, rtol=0)
    assert not torch.allclose(ImageAlignment(clip_tower, images).targets(PAIRS)[0], target, atol=1e-5)


def test_image_alignment_wants_images(clip_tower: ClipTower) -> None:
    with pytest.raises(SgoolError, match="at least one reference image"):
        ImageAlignment(clip_tower, [])


@pytest.mark.parametrize(
    ("goal", "losses"), [("maximize", [-1, -4]), ("minimize", [1, 4]), (3, [2, 1]), (3.5, [2.5, 0.5])]
)
def test_goals(goal: Goal, losses: list[float]) -> None:
    assert towards(torch.tensor([1.0, 4.0]), goal).tolist() == losses


class OfColumns(TextAlignment):
    """A term whose losses keep the column of a network's output."""

    def __call__(self, views: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return super().__call__(views, targets)[:, None]

    def paired(self, views: torch.Tensor, index: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return super().paired(views, index, targets)[:, None]


@pytest.mark.parametrize("match", ["prompt", "phrases"])
@pytest.mark.parametrize("views", ["crops", "whole"])
def test_losses_that_are_not_one_for_each_view_are_refused(clip_tower: ClipTower, views: Any, match: Any) -> None:
    """With regions they would broadcast against the regions' masses, and be wrong without a word."""
    boxes = FixedSaliency(boxes=[[0, 0, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4]])
    saliency = SaliencySettings(boxes, w_global=0.6, w_salient=0.4, match=match)
    objective = Objective({"text": OfColumns(clip_tower, views=views)}, {"text": 1.0}, CropSettings(num=2), saliency)
    images = torch.rand(1, 3, 48, 48)
    with pytest.raises(
        SgoolError, match=r"term text: expected one loss for each of the \d+ views, of shape \(\d+,\), "
    ):
        objective.bind(PAIRS[:1])(images, [torch.Generator()], 0)
