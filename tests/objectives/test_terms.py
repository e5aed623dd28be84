from __future__ import annotations

import math

import torch

from sgool.models.clip import ClipTower
from sgool.objectives import Term, TextAlignment
from sgool.types import PromptSeed

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
