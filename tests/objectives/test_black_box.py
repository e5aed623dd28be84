"""Estimated gradients of functions of PIL images: unbiased in their frequencies, reproducible, each image its own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sgool.errors import SgoolError
from sgool.objectives import BlackBox, CropSettings, Objective, SeededTerm, Symmetry
from sgool.objectives.black_box import cosine_basis, spsa_gradient
from sgool.types import PromptSeed

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two trees", 2), PromptSeed("a car", 3))


def redness(image: Image.Image) -> float:
    return float(np.asarray(image, dtype=np.float64)[..., 0].mean() / 255)


def images(size: int = 16) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


def generators(rows: tuple[int, ...] = (0, 1, 2), seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + row) for row in rows]


def test_cosine_basis_is_orthonormal_and_starts_with_the_constant() -> None:
    basis = cosine_basis(9, 5)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(basis[:, 0], torch.full((9,), 1 / 3, dtype=torch.float64))


def test_the_estimate_is_unbiased_in_its_frequencies() -> None:
    """Over all signs of 2x2 frequencies in 3 channels the mean is the gradient's projection, to rounding."""
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(3, 5, 6, dtype=torch.float64, generator=generator)
    image = torch.rand(3, 5, 6, dtype=torch.float64, generator=generator)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=12)), dtype=torch.float64).view(-1, 3, 2, 2)
    rows, columns = cosine_basis(5, 2), cosine_basis(6, 2)
    projection = torch.einsum("hm,km,ckl,wn,ln->chw", rows, rows, slope, columns, columns)

    # Linear, and quadratic along the image: central differences are exact for both.
    for function, gradient in (
        (lambda x: float((slope * x).sum()), slope),
        (lambda x: float((slope * (x - image).square()).sum() + (slope * x).sum()), slope),
    ):
        estimate = spsa_gradient(function, image, signs, sigma=0.1)
        assert gradient is slope
        torch.testing.assert_close(estimate, projection, rtol=1e-9, atol=1e-9)


def test_perturbations_have_the_size_that_was_asked_for() -> None:
    seen: list[Tensor] = []
    image = torch.zeros(3, 12, 20, dtype=torch.float64)
    signs = torch.ones(2, 3, 4, 4, dtype=torch.float64)
    spsa_gradient(lambda x: float(seen.append(x) or 0), image, signs, sigma=0.03)
    assert [float(x.square().mean().sqrt()) for x in seen] == pytest.approx([0.03] * 4)
    torch.testing.assert_close(seen[0], -seen[1])  # antithetic


def test_a_step_against_the_estimate_lowers_the_loss() -> None:
    term = BlackBox(redness, probes=16, frequencies=2)
    assert isinstance(term, SeededTerm) and not isinstance(Symmetry(), SeededTerm) and term.input_size is None
    objective = Objective({"b": term}, {"b": 1.0}).bind(PAIRS)
    batch = images().requires_grad_()
    output = objective(batch, generators(), 0)
    output.loss.sum().backward()
    assert batch.grad is not None
    torch.testing.assert_close(output.loss.detach(), -images()[:, 0].mean(dim=(1, 2)), atol=1e-3, rtol=0)  # 8 bits
    moved = (images() - 20 * batch.grad).clamp(0, 1)
    assert (objective.evaluate(moved) < objective.evaluate(images())).all()


def test_the_weight_and_the_goal_scale_the_estimate() -> None:
    gradients = []
    for goal, weight in (("maximize", 1.0), ("minimize", 3.0)):
        batch = images().requires_grad_()
        objective = Objective({"b": BlackBox(redness, goal)}, {"b": weight})  # type: ignore[arg-type]
        objective.bind(PAIRS)(batch, generators(), 0).loss.sum().backward()
        assert batch.grad is not None
        gradients.append(batch.grad)
    torch.testing.assert_close(gradients[1], -3 * gradients[0])


def run(rows: tuple[int, ...], seed: int = 0) -> Tensor:
    batch = images()[list(rows)].requires_grad_()
    objective = Objective({"b": BlackBox(redness)}, {"b": 1.0}).bind([PAIRS[row] for row in rows])
    (gradient,) = torch.autograd.grad(objective(batch, generators(rows, seed), 0).loss.sum(), batch)
    return gradient


def test_each_pair_has_its_own_directions_whatever_its_batch_mates() -> None:
    together = run((0, 1, 2))
    assert torch.equal(together, run((0, 1, 2)))
    assert torch.equal(together[2:], run((2,))) and torch.equal(together[[2, 0]], run((2, 0)))
    assert not torch.equal(together, run((0, 1, 2), seed=1))  # another update
    torch.manual_seed(5)
    assert torch.equal(together, run((0, 1, 2)))


def test_it_leaves_other_terms_crops_as_they_were() -> None:
    class Mean:
        name, input_size = "mean", 8

        def targets(self, pairs: Any) -> Tensor:
            return torch.zeros(len(pairs), 0)

        def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
            return views.mean(dim=(1, 2, 3))

    crops = CropSettings(num=3)
    alone = Objective({"m": Mean()}, {"m": 1.0}, crops).bind(PAIRS)(images(), generators(), 0)
    both = Objective({"b": BlackBox(redness), "m": Mean()}, {"b": 1.0, "m": 1.0}, crops).bind(PAIRS)
    assert torch.equal(both(images(), generators(), 0).terms["m"], alone.terms["m"])


def test_selection_only_has_no_gradient_but_a_value() -> None:
    batch = images().requires_grad_()
    objective = Objective({"b": BlackBox(redness, gradient="none")}, {"b": 1.0}).bind(PAIRS)
    output = objective(batch, generators(), 0)
    (gradient,) = torch.autograd.grad(output.loss.sum(), batch)
    assert not gradient.any() and torch.equal(objective.evaluate(images()), output.loss.detach())


def test_the_number_of_calls_and_the_prompt() -> None:
    calls: list[str] = []

    def score(image: Image.Image, prompt: str) -> float:
        assert image.size == (16, 16) and image.mode == "RGB"
        calls.append(prompt)
        return len(prompt)

    objective = Objective({"b": BlackBox(score, "minimize", probes=3)}, {"b": 1.0}).bind(PAIRS)
    output = objective(images().requires_grad_(), generators(), 0)
    assert output.loss.tolist() == [len(pair.prompt) for pair in PAIRS]
    assert [calls.count(pair.prompt) for pair in PAIRS] == [7, 7, 7]
    objective.evaluate(images())
    assert len(calls) == 24


def test_an_image_that_diverged_never_reaches_the_function() -> None:
    batch = images()
    batch[1, 0, 0, 0] = math.nan
    loss = Objective({"b": BlackBox(redness)}, {"b": 1.0}).bind(PAIRS)(batch.requires_grad_(), generators(), 0).loss
    assert loss.isfinite().tolist() == [True, False, True]
    (gradient,) = torch.autograd.grad(loss.sum(), batch)
    assert torch.equal(gradient[[0, 2]], run((0, 1, 2))[[0, 2]])


def test_a_function_that_returns_no_number() -> None:
    objective = Objective({"b": BlackBox(lambda image: "good", name="b")}, {"b": 1.0}).bind(PAIRS)
    with pytest.raises(SgoolError, match=r"objective.terms.b: .* should return a number, got 'good'"):
        objective.evaluate(images())
