"""Symmetry, colour, sharpness: by hand and by finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgool.models.networks import Networks
from sgool.objectives import Color, Sharpness, Symmetry, Term, build_objective
from sgool.run.config import load_config, to_plain
from sgool.types import PromptSeed

PAIRS = (PromptSeed("a", 1), PromptSeed("b", 2))


def images(height: int = 6, width: int = 8) -> Tensor:
    return torch.rand(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "term",
    [Symmetry(), Symmetry("vertical"), Color([0.2, 0.4, 0.9], [0.1, 0.2, 0.8, 0.9]), Sharpness(), Sharpness(0.5)],
    ids=["horizontal", "vertical", "color", "sharpness", "aimed sharpness"],
)
def test_terms_of_the_whole_image_with_exact_gradients(term: Term) -> None:
    assert isinstance(term, Term) and term.input_size is None
    targets = term.targets(PAIRS)
    assert len(targets) == 2
    assert torch.autograd.gradcheck(lambda x: term(x, targets), (images().requires_grad_(),))
    alone = torch.cat([term(image[None], row[None]) for image, row in zip(images(), targets, strict=True)])
    torch.testing.assert_close(term(images(), targets), alone)


def test_symmetry() -> None:
    image = images()
    mirrored = torch.cat([image, image.flip(-1)], dim=-1)
    assert Symmetry()(mirrored, torch.zeros(2, 0)).tolist() == [0, 0]
    assert (Symmetry("vertical")(mirrored, torch.zeros(2, 0)) > 0).all()
    expected = sum(
        float(image[0, c, y, x] - image[0, c, y, 7 - x]) ** 2 for c in range(3) for y in range(6) for x in range(8)
    )
    assert float(Symmetry()(image, torch.zeros(2, 0))[0]) == pytest.approx(expected / (3 * 6 * 8))


def test_the_symmetry_objective_is_that_of_the_published_code() -> None:
    """The numbers are those of `symmetry_loss_fn` of github.com/salesforce/DOODL, which sees pixels in [-1, 1]."""
    options = to_plain(load_config(["objective=symmetry"]))["objective"]
    objective = build_objective(options, Networks({})).bind(PAIRS[:1])
    wave = torch.arange(48.0, dtype=torch.float64).view(6, 8)
    decoded = torch.stack([torch.sin(0.7 * wave + channel) * 1.2 for channel in range(3)])[None].requires_grad_(True)
    loss = objective(decoded / 2 + 0.5, [torch.Generator()], 0).loss
    (gradient,) = torch.autograd.grad(loss.sum(), decoded)
    assert float(loss.detach()) == pytest.approx(1.6347574582226985, rel=1e-12)
    expected = [0.03274842042081108, 0.05052644865504262, 0.04454109858926933]
    assert gradient[0, 0, 0, :3].tolist() == pytest.approx(expected, rel=1e-10)


def test_color_of_the_image_and_of_a_box() -> None:
    image = torch.zeros(1, 3, 10, 10)
    image[:, 0, :5, :5] = 1  # a red quarter
    whole = Color([0.25, 0, 0])
    assert float(whole(image, whole.targets(PAIRS[:1]))) == pytest.approx(0, abs=1e-12)
    box = Color([0, 0, 0], [0.0, 0.0, 0.5, 1.0])
    assert float(box(image, box.targets(PAIRS[:1]))) == pytest.approx(0.5**2 / 3)


def test_a_box_has_at_least_one_pixel() -> None:
    term = Color([0, 0, 0], [0.99, 0.99, 1.0, 1.0])
    assert term(torch.ones(1, 3, 4, 4), term.targets(PAIRS[:1])).tolist() == [1]
    thin = Color([0, 0, 0], [0.5, 0.0, 0.501, 1.0])
    assert thin(torch.ones(1, 3, 4, 4), thin.targets(PAIRS[:1])).tolist() == [1]


def test_sharpness_is_the_laplacian_s_mean_square() -> None:
    flat = torch.full((1, 3, 5, 5), 0.7)
    # float32 products of 0.7: rounding 1e-7, squared.
    assert float(Sharpness("minimize")(flat, torch.zeros(1, 0))) == pytest.approx(0, abs=1e-12)
    dot = torch.zeros(1, 3, 5, 5)
    dot[..., 2, 2] = 1  # inner 3x3 places see -4 once and 1 four times
    assert float(Sharpness("minimize")(dot, torch.zeros(1, 0))) == pytest.approx((16 + 4) / 9)
    assert float(Sharpness()(dot, torch.zeros(1, 0))) == pytest.approx(-(16 + 4) / 9)
