from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.models.clip import ClipTower
from sgool.objectives import (
    BoundObjective,
    CropSettings,
    Objective,
    SaliencySettings,
    Symmetry,
    TextAlignment,
    crop_resize,
)
from sgool.objectives.crops import random_boxes
from sgool.saliency import SpectralResidual, find_regions, normalise_map
from sgool.types import ObjectiveOutput, PromptSeed, Region

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2), PromptSeed("an elephant", 3))
SIZE = 48


class MeanColour:
    """A term by hand: squared difference between a view's mean and the pair's seed."""

    name = "mean"

    def __init__(self, input_size: int = 16) -> None:
        self.input_size = input_size
        self.views: list[Tensor] = []

    def targets(self, pairs: tuple[PromptSeed, ...]) -> Tensor:
        return torch.tensor([[float(pair.seed)] for pair in pairs], dtype=torch.float64)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        self.views.append(views)
        return (views.mean((1, 2, 3)) - targets[:, 0]).square()


class Bright:
    """A detector by hand: the mean of the channels; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled() and images.min() >= 0 and images.max() <= 1
        self.calls += 1
        return normalise_map(images.mean(dim=1, keepdim=True).round())


def generators(number: int = 3, seed: int = 7) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(number)]


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    """Dim noise; images 0 and 1 have one and two bright squares, image 2 none."""
    batch = torch.rand(3, 3, SIZE, SIZE, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 0.3
    batch[0, :, 5:15, 5:15] += 0.6
    batch[1, :, 30:40, 5:15] += 0.6
    batch[1, :, 5:10, 30:35] += 0.6
    return batch


def settings(detector: object = None, **kwargs: object) -> SaliencySettings:
    return SaliencySettings(detector or Bright(), **{"w_global": 0.75, "w_salient": 0.5, **kwargs})  # type: ignore[arg-type]


def bound(
    saliency: SaliencySettings | None = None, crops: CropSettings | None = None, **weights: float
) -> BoundObjective:
    weights = weights or {"mean": 1.0}
    return Objective({name: MeanColour() for name in weights}, weights, crops, saliency).bind(PAIRS)


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_formula_by_hand(reduction: str) -> None:
    crops = CropSettings(num=5, power=0.5, min_side=0.3, reduction=reduction)  # type: ignore[arg-type]
    saliency = settings(max_regions=2, margin=0.2, min_side=0.25)
    output = bound(saliency, crops, a=2.0, b=-0.5)(images(), generators(), update=0)
    for index, (pair, generator) in enumerate(zip(PAIRS, generators(), strict=True)):
        image = images()[index : index + 1]

        def losses(boxes: tuple[Region, ...], image: Tensor = image, seed: int = pair.seed) -> Tensor:
            return (crop_resize(image, [boxes], 16)[0].mean((1, 2, 3)) - seed).square()

        of_crops = losses(random_boxes((SIZE, SIZE), 5, generator, power=0.5, min_side=0.3))
        bright = image.mean(dim=1)[0].round()
        regions = find_regions(bright, max_regions=2, margin=0.2, min_side=0.25)
        reduced = of_crops.min() if reduction == "min" else of_crops.mean()
        expected = (0.75 if regions else 0.75 + 0.5) * reduced
        if regions:
            masses = torch.tensor([region.mass for region in regions], dtype=torch.float64)
            expected = expected + 0.5 * (masses * losses(regions)).sum()
        # float64 sums in another order.
        torch.testing.assert_close(output.terms["a"][index], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(output.loss[index], 1.5 * expected, rtol=1e-12, atol=0)
        assert output.regions[index] == regions
    assert [len(found) for found in output.regions] == [1, 2, 0]
    assert output.saliency_map is not None and output.saliency_map.shape == (3, 1, SIZE, SIZE)


def test_without_saliency_the_global_weight_is_one() -> None:
    output = bound(None, CropSettings(num=0))(images(), generators(), update=0)
    expected = torch.stack([(i.mean() - pair.seed).square() for i, pair in zip(images(), PAIRS, strict=True)])
    torch.testing.assert_close(output.loss, expected, rtol=1e-12, atol=0)  # float64 sums in another order
    assert output.saliency_map is None and output.regions == ((), (), ())


def test_gradient_matches_finite_differences() -> None:
    objective = bound(settings(), CropSettings(num=3), a=1.0, b=0.3)

    def loss(batch: Tensor) -> Tensor:
        return objective(batch, generators(), update=1).loss

    objective(images(), generators(), update=0)  # boxes are found here and stay
    objective.objective.saliency = settings(every_n_steps=10)
    small = images().requires_grad_()
    probe = torch.randn(small.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    (gradient,) = torch.autograd.grad(loss(small).sum(), small)
    with torch.no_grad():
        numeric = (loss(small + 1e-4 * probe).sum() - loss(small - 1e-4 * probe).sum()) / 2e-4
    # The loss is quadratic: central differences are exact up to rounding, 1e-16 / 1e-4.
    torch.testing.assert_close((gradient * probe).sum(), numeric, rtol=1e-9, atol=1e-10)


def test_detects_every_n_steps_and_keeps_the_boxes_in_between() -> None:
    detector = Bright()
    objective = bound(settings(detector, every_n_steps=3), CropSettings(num=1))
    moved = images().roll(10, dims=2)
    regions = [objective(images() if step in (0, 4, 5) else moved, generators(), step).regions for step in range(7)]
    assert detector.calls == 3  # steps 0, 3, 6
    assert regions[0] == regions[1] == regions[2]
    assert regions[3] == regions[4] == regions[5] == regions[6]
    assert regions[0] != regions[3]


def test_a_fit_that_starts_between_detections_detects() -> None:
    detector = Bright()
    objective = bound(settings(detector, every_n_steps=10))
    assert len(objective(images(), generators(), update=4).regions[1]) == 2
    assert detector.calls == 1


def test_another_image_size_detects_anew() -> None:
    detector = Bright()
    objective = bound(settings(detector, every_n_steps=10))
    objective(images(), generators(), update=0)
    output = objective(images()[..., :40, :], generators(), update=1)
    assert detector.calls == 2 and output.saliency_map is not None and output.saliency_map.shape[-2:] == (40, SIZE)


def run(objective: Objective, batch: Tensor, rows: list[int], step: int = 0) -> tuple[ObjectiveOutput, Tensor]:
    batch = batch[rows].clone().requires_grad_()
    own = [generators()[row] for row in rows]
    output = objective.bind([PAIRS[row] for row in rows])(batch, own, step)
    (gradient,) = torch.autograd.grad(output.loss.sum(), batch)
    return output, gradient


@pytest.mark.parametrize("tower", ["clip_tower", "wordpiece_tower"])
def test_images_do_not_depend_on_batch_mates(tower: str, request: pytest.FixtureRequest) -> None:
    clip: ClipTower = request.getfixturevalue(tower)
    objective = Objective(
        {"text": TextAlignment(clip)},
        {"text": 1.0},
        CropSettings(num=4, reduction="mean"),
        settings(SpectralResidual()),
    )
    together, gradients = run(objective, images(torch.float32), [0, 1, 2])
    for row in range(3):
        alone, gradient = run(objective, images(torch.float32), [row])
        assert alone.regions[0] == together.regions[row]
        # float32 products in blocks of another size; the network amplifies rounding somewhat.
        torch.testing.assert_close(alone.loss[0], together.loss[row], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient[0], gradients[row], rtol=1e-3, atol=1e-6)
    shuffled, _ = run(objective, images(torch.float32), [2, 0, 1])
    torch.testing.assert_close(shuffled.loss, together.loss[[2, 0, 1]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_that_diverged_does_not_harm_the_others(bad: float) -> None:
    batch = images()
    batch[1, :, 3:20, 3:20] = bad
    broken, gradients = run(Objective({"a": MeanColour()}, {"a": 1.0}, saliency=settings()), batch, [0, 1, 2])
    whole, expected = run(Objective({"a": MeanColour()}, {"a": 1.0}, saliency=settings()), images(), [0, 1, 2])
    assert broken.regions == (whole.regions[0], (), whole.regions[2])
    assert not broken.loss[1].isfinite()
    assert torch.equal(broken.loss[[0, 2]], whole.loss[[0, 2]])
    assert torch.equal(gradients[[0, 2]], expected[[0, 2]])


def test_a_broken_detector_is_reported() -> None:
    def broken(batch: Tensor) -> Tensor:
        return batch.mean(dim=1, keepdim=True) * float("nan")

    with pytest.raises(SgoolError, match="saliency map of image 0, 1, 2 of 3 holds NaN"):
        bound(settings(broken))(images(), generators(), update=0)


def test_values_out_of_range_keep_their_gradient() -> None:
    batch = (images() * 4 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(bound(settings(), CropSettings(num=0))(batch, generators(), 0).loss.sum(), batch)
    assert (gradient != 0).all()


@pytest.mark.parametrize("crops", [0, 4])
def test_clamped_images_are_those_that_doodl_and_reno_judge(crops: int) -> None:
    """Their code has `(image / 2 + 0.5).clamp(0, 1)` before the loss: pixels outside have no gradient."""
    overshooting = (images() * 1.6 - 0.1).requires_grad_(True)
    outside = (overshooting.detach() < 0) | (overshooting.detach() > 1)
    assert 0.1 < float(outside.double().mean()) < 0.9
    terms = {"mean": MeanColour()}
    settings = CropSettings(num=crops)
    clamping = Objective(terms, {"mean": 1.0}, settings, clamp_images=True).bind(PAIRS)
    plain = Objective(terms, {"mean": 1.0}, settings).bind(PAIRS)
    got, expected = (
        torch.autograd.grad(one(given, generators(), 0).loss.sum(), overshooting)[0]
        for one, given in ((clamping, overshooting), (plain, overshooting.clamp(0, 1)))
    )
    assert got.equal(expected) and float(got[outside].abs().max()) == 0
    (unclamped,) = torch.autograd.grad(plain(overshooting, generators(), 0).loss.sum(), overshooting)
    assert float((got - unclamped).norm() / got.norm()) > 0.3
    assert clamping.objective.checkpoint_settings() != plain.objective.checkpoint_settings()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("clamp", [False, True])
def test_an_image_that_is_not_finite_has_no_finite_loss(clamp: bool, value: float) -> None:
    images = torch.full((3, 3, 16, 16), 0.5)
    images[0, 0, 3, 4] = value
    terms, settings = {"mean": MeanColour()}, CropSettings(num=0)
    loss = Objective(terms, {"mean": 1.0}, settings, clamp_images=clamp).bind(PAIRS)(images, generators(), 0).loss
    assert loss.isfinite().tolist() == [False, True, True]


def test_doodl_does_not_clamp_the_image_of_its_symmetry() -> None:
    overshooting = images() * 1.6 - 0.1
    objectives = [
        Objective({"flip": Symmetry()}, {"flip": 1.0}, clamp_images=clamp).bind(PAIRS) for clamp in (False, True)
    ]
    plain, clamping = (objective(overshooting, generators(), 0).loss for objective in objectives)
    assert clamping.equal(plain)


def test_evaluate_is_the_whole_image_with_the_last_regions() -> None:
    detector = Bright()
    objective = bound(settings(detector, every_n_steps=10), CropSettings(num=6))
    regions = objective(images(), generators(), update=0).regions
    moved = images().roll(12, dims=3)
    first, second = objective.evaluate(moved), objective.evaluate(moved)
    assert torch.equal(first, second) and detector.calls == 1 and not first.requires_grad
    expected = bound(settings(every_n_steps=10), CropSettings(num=0))
    expected._detection = objective._detection
    result = expected(moved, generators(), update=1)
    assert torch.equal(first, result.loss) and result.regions == regions


def test_evaluate_before_the_first_step_detects_and_forgets() -> None:
    detector = Bright()
    objective = bound(settings(detector, every_n_steps=10), CropSettings(num=0))
    scores = objective.evaluate(images())
    assert torch.equal(scores, objective(images(), generators(), update=1).loss)
    assert detector.calls == 2


class WholeImage:
    """A term of the whole image: its mean."""

    name, input_size = "whole", None

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def targets(self, pairs: tuple[PromptSeed, ...]) -> Tensor:
        return torch.tensor([[float(pair.seed)] for pair in pairs], dtype=torch.float64)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        self.shapes.append(tuple(views.shape))
        return views.mean((1, 2, 3)) + targets[:, 0]


@pytest.mark.parametrize(("saliency", "factor"), [(None, 1.0), ("on", 0.75 + 0.5)])
def test_a_term_of_the_whole_image_sees_it_once_at_full_weight(saliency: str | None, factor: float) -> None:
    terms = {"whole": WholeImage(), "crops": MeanColour()}
    detector = settings() if saliency else None
    objective = Objective(terms, {"whole": 2.0, "crops": 1.0}, CropSettings(num=4), detector).bind(PAIRS)
    output = objective(images(), generators(), 0)
    assert terms["whole"].shapes == [(3, 3, SIZE, SIZE)]
    expected = factor * (images().mean((1, 2, 3)) + torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(output.terms["whole"], expected)
    torch.testing.assert_close(output.loss, 2 * output.terms["whole"] + output.terms["crops"])


class Random(WholeImage):
    """Its loss is its seed, scaled to [0, 1); with crops when it has a size."""

    def __init__(self, input_size: int | None) -> None:
        super().__init__()
        self.input_size = input_size  # type: ignore[assignment]

    def seeded(self, views: Tensor, targets: Tensor, seeds: list[int]) -> Tensor:
        assert len(seeds) == len(views)
        return torch.tensor(seeds, dtype=torch.float64) / 2**62 + 0 * views.sum()


@pytest.mark.parametrize("size", [None, 16])
def test_terms_with_randomness_get_a_seed_of_their_image_and_leave_the_crops_alone(size: int | None) -> None:
    crops = CropSettings(num=2)
    plain = Objective({"a": MeanColour()}, {"a": 1.0}, crops).bind(PAIRS)(images(), generators(), 0)
    both = Objective({"r": Random(size), "a": MeanColour()}, {"r": 1.0, "a": 1.0}, crops)
    first = both.bind(PAIRS)(images(), generators(), 0).terms
    assert torch.equal(first["a"], plain.terms["a"])
    assert len(set(first["r"].tolist())) == 3 and (first["r"] < 1).all()
    alone = both.bind(PAIRS[1:2])(images()[1:2], generators()[1:2], 0).terms["r"]
    assert torch.equal(alone, first["r"][1:2])
    assert not torch.equal(both.bind(PAIRS)(images(), generators(seed=8), 0).terms["r"], first["r"])


def test_truncated_asks_the_terms_that_read_prompts(clip_tower: ClipTower) -> None:
    objective = Objective({"t": TextAlignment(clip_tower), "m": MeanColour()}, {"t": 1.0, "m": 1.0})
    long = "a red cat " * 20
    assert objective.truncated(["a cat", long]) == {"t": clip_tower.truncated(["a cat", long])}


def test_evaluate_has_no_gradient() -> None:
    assert not bound().evaluate(images().requires_grad_()).requires_grad


def test_terms_of_one_size_share_their_views_and_others_get_their_own() -> None:
    terms = {"a": MeanColour(16), "b": MeanColour(16), "c": MeanColour(24)}
    Objective(terms, dict.fromkeys(terms, 1.0), CropSettings(num=2)).bind(PAIRS)(images(), generators(), 0)
    assert terms["a"].views[0] is terms["b"].views[0]
    assert terms["a"].views[0].shape == (6, 3, 16, 16) and terms["c"].views[0].shape == (6, 3, 24, 24)


def test_targets_are_made_once(clip_tower: ClipTower) -> None:
    objective = Objective({"text": TextAlignment(clip_tower)}, {"text": 100.0}, CropSettings(num=1)).bind(PAIRS)
    assert objective.targets["text"].shape[0] == objective.batch_size == 3
    output = objective(images(torch.float32), generators(), 0)
    assert torch.equal(output.loss, 100 * output.terms["text"])


@pytest.mark.parametrize(
    ("shape", "number", "message"),
    [
        ((2, 3, 8, 8), 3, r"shape \(3, 3, H, W\), got \(2, 3, 8, 8\)"),
        ((3, 1, 8, 8), 3, r"got \(3, 1, 8, 8\)"),
        ((3, 8, 8), 3, r"got \(3, 8, 8\)"),
        ((3, 3, 8, 8), 2, "expected 3 generators, one per image, got 2"),
    ],
)
def test_wrong_batches(shape: tuple[int, ...], number: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound()(torch.zeros(shape), generators(number), 0)


def test_no_pairs() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        Objective({"a": MeanColour()}, {"a": 1.0}).bind([])


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        ((), {}, "needs at least one term"),
        (("a", "b"), {"a": 1.0}, "objective.weights has no entry for b"),
        (("a",), {"a": 1.0, "c": 1.0}, "objective.weights names c, which is no term; terms are a"),
        (("a",), {"a": float("nan")}, "objective.weights.a must be a finite number, got nan"),
    ],
)
def test_wrong_weights(terms: tuple[str, ...], weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Objective({name: MeanColour() for name in terms}, weights)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num": -1}, "crops.num must be a whole number, 0 or more, got -1"),
        ({"power": -0.1}, "crops.power must be 0 or more, got -0.1"),
        ({"min_side": 0}, r"crops.min_side must be in \(0, 1\], .* got 0"),
        ({"reduction": "max"}, "crops.reduction must be 'min' or 'mean', got 'max'"),
        ({"num": 1.5, "min_side": 3}, r"(?s)2 problems.*crops.num.*crops.min_side"),
    ],
)
def test_wrong_crop_settings(knobs: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CropSettings(**knobs)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"every_n_steps": 0}, "saliency.every_n_steps must be a whole number, 1 or more, got 0"),
        ({"w_global": -1}, "saliency.w_global must be 0 or more, got -1"),
        ({"w_salient": float("inf")}, "saliency.w_salient must be 0 or more, got inf"),
        ({"w_global": 0, "w_salient": 0}, "both 0: nothing would be optimised"),
        ({"threshold": 2, "max_regions": -1}, r"(?s)2 problems.*threshold.*max_regions"),
    ],
)
def test_wrong_saliency_settings(knobs: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**knobs)
