"""Salient regions matched with phrases, against an independent loop of the definition in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.errors import ConfigError
from sgool.models.clip import ClipTower
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment, crop_resize
from sgool.objectives.crops import random_boxes
from sgool.objectives.matching import looked_at, match
from sgool.saliency import GradCam, find_regions, normalise_map
from sgool.types import ObjectiveOutput, PromptSeed, Region

SIZE = 48
WHOLE = Region(0, 0, SIZE, SIZE)
#: One, three and two phrases; by the rule, from a column, and by the rule again.
PAIRS = (
    PromptSeed("a red cat", 1),
    PromptSeed("anything", 2, phrases=("a dog", "two trees", "a blue house")),
    PromptSeed("a car and a star", 3),
)
PHRASES = (("a red cat",), ("a dog", "two trees", "a blue house"), ("a car", "a star"))


def number_of(text: str) -> float:
    """Stands for a text's embedding."""
    return len(text) / 10


class Toy:
    """A term by hand that reads texts: how far a view's weighted mean is from the text's number."""

    name, input_size = "toy", 12

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        return torch.tensor([[number_of(pair.prompt)] for pair in pairs], dtype=torch.float64)

    def phrase_targets(self, phrases: Sequence[str]) -> Tensor:
        return torch.tensor([[number_of(phrase)] for phrase in phrases], dtype=torch.float64)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        slope = torch.linspace(0.5, 1.5, self.input_size, dtype=views.dtype)
        return ((views * slope).mean((1, 2, 3)) - targets[:, 0]).square()


class Blind(Toy):
    """The same, without phrases."""

    phrase_targets = None  # type: ignore[assignment]


class Bright:
    """A detector by hand: the mean of the channels, in steps."""

    def __call__(self, images: Tensor) -> Tensor:
        return normalise_map((images.mean(dim=1, keepdim=True) * 4).round())


def images() -> Tensor:
    """Dim noise with one, two and no bright squares."""
    batch = torch.rand(3, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    batch[0, :, 5:15, 5:15] += 0.6
    batch[1, :, 30:40, 5:15] += 0.6
    batch[1, :, 5:10, 30:35] += 0.5
    batch[2] = 0
    return batch


def generators(number: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(7 + i) for i in range(number)]


def settings(**kwargs: Any) -> SaliencySettings:
    own = {"w_global": 0.75, "w_salient": 0.5, "match": "phrases", "match_temperature": 0.3, "margin": 0.0}
    return SaliencySettings(kwargs.pop("detector", Bright()), **{**own, **kwargs})


def bound(saliency: SaliencySettings, terms: dict[str, Any] | None = None, weights: Any = None) -> Any:
    return Objective(terms or {"toy": Toy()}, weights, CropSettings(num=4, reduction="mean"), saliency).bind(PAIRS)


def by_hand(table: list[list[float]], masses: list[float], saliency: SaliencySettings) -> float:
    """The definition, with loops: a table of R rows and P columns."""
    regions, phrases, heat = len(table), len(table[0]), saliency.match_temperature
    costs = [
        [value - heat * math.log(regions * masses[r]) if saliency.match_masses else value for value in row]
        for r, row in enumerate(table)
    ]
    if saliency.assign == "softmin":
        total = 0.0
        for p in range(phrases):
            total -= heat * math.log(sum(math.exp(-costs[r][p] / heat) for r in range(regions)) / regions)
        return total / phrases
    most = math.ceil(phrases / regions)
    sums = [
        sum(costs[r][p] for p, r in enumerate(choice))
        for choice in itertools.product(range(regions), repeat=phrases)
        if max(choice.count(r) for r in range(regions)) <= most
    ]
    return min(sums) / phrases


@pytest.mark.parametrize("masses", [False, True])
@pytest.mark.parametrize("assign", ["softmin", "hungarian"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (2, 3), (3, 3), (4, 2), (2, 5)])
def test_match_is_its_definition(shape: tuple[int, int], assign: Any, masses: bool) -> None:
    source = torch.Generator().manual_seed(sum(shape))
    own = settings(assign=assign, match_masses=masses)
    for _ in range(5):
        distances = torch.rand(shape, dtype=torch.float64, generator=source)
        shares = torch.rand(shape[0], dtype=torch.float64, generator=source) + 0.1
        shares /= shares.sum()
        regions = [replace(WHOLE, mass=float(share)) for share in shares]
        loss, chosen = match(distances, regions, own)
        expected = by_hand(distances.tolist(), shares.tolist(), own)
        assert float(loss) == pytest.approx(expected, rel=1e-12)  # float64 sums in another order
        assert len(chosen) == shape[1] and set(chosen) <= set(range(shape[0]))
        if assign == "softmin" and not masses:
            assert chosen == distances.argmin(dim=0).tolist()


def test_a_soft_minimum_lies_between_minimum_and_mean_and_does_not_count_regions() -> None:
    distances = torch.tensor([[0.2, 0.9], [0.5, 0.4], [0.8, 0.6]], dtype=torch.float64)
    regions = [replace(WHOLE, mass=1 / 3)] * 3
    least, mean = float(distances.amin(dim=0).mean()), float(distances.mean())
    cold, warm, hot = (
        float(match(distances, regions, settings(match_temperature=heat))[0]) for heat in (1e-5, 0.1, 1e4)
    )
    # Of the soft minimum's own distance to its limits at these temperatures: 1e-5 log 3, and variance / 1e4.
    assert cold == pytest.approx(least, abs=2e-5) and hot == pytest.approx(mean, abs=1e-4) and least < warm < mean
    twice = match(torch.cat([distances, distances]), [replace(WHOLE, mass=1 / 6)] * 6, settings(match_temperature=0.1))
    assert float(twice[0]) == pytest.approx(warm, rel=1e-12)
    masses = match(distances, regions, settings(match_temperature=0.1, match_masses=True))
    assert float(masses[0]) == pytest.approx(warm, rel=1e-12)  # equal masses change nothing


@pytest.mark.parametrize("masses", [False, True])
@pytest.mark.parametrize("assign", ["softmin", "hungarian"])
@pytest.mark.parametrize("num", [0, 4])
def test_the_objective_is_its_definition(num: int, assign: Any, masses: bool) -> None:
    own = settings(assign=assign, match_masses=masses)
    crops = CropSettings(num=num, reduction="mean")
    output = Objective({"toy": Toy()}, {"toy": 2.0}, crops, own).bind(PAIRS)(images(), generators(), 0)
    assert [len(found) for found in output.regions] == [1, 2, 0]
    for index, (pair, phrases) in enumerate(zip(PAIRS, PHRASES, strict=True)):
        image, regions = images()[index : index + 1], output.regions[index] or (WHOLE,)

        def loss(box: Region, text: str, image: Tensor = image) -> float:
            return float(
                Toy()(crop_resize(image, [[box]], 12)[0], torch.tensor([[number_of(text)]], dtype=torch.float64))
            )

        boxes = random_boxes((SIZE, SIZE), num, generators()[index]) or (WHOLE,)
        of_crops = sum(loss(box, pair.prompt) for box in boxes) / len(boxes)
        table = [[loss(box, phrase) for phrase in phrases] for box in regions]
        matched = by_hand(table, [region.mass for region in regions], own)
        # float64 sums in another order.
        assert float(output.loss[index]) == pytest.approx(2 * (0.75 * of_crops + 0.5 * matched), rel=1e-12)
        assert [found.phrase for found in output.matches[index]] == list(phrases)
        for number, found in enumerate(output.matches[index]):
            assert found.region in (output.regions[index] or (None,))
            row = regions.index(found.region or WHOLE)
            assert found.distance == pytest.approx(2 * table[row][number], rel=1e-12)


@pytest.mark.parametrize("masses", [False, True])
@pytest.mark.parametrize("assign", ["softmin", "hungarian"])
def test_gradients_match_finite_differences(assign: Any, masses: bool) -> None:
    objective = bound(settings(assign=assign, match_masses=masses, every_n_steps=10))
    objective(images(), generators(), 0)  # regions are found here and stay
    batch = images().requires_grad_()
    probe = torch.randn(batch.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))

    def loss(moved: Tensor) -> Tensor:
        return objective(moved, generators(), 1).loss

    for index in range(3):
        (gradient,) = torch.autograd.grad(loss(batch)[index], batch)
        with torch.no_grad():
            steps = [float(loss(batch + sign * 1e-5 * probe)[index]) for sign in (1, -1)]
        # Central differences: an error of the step squared (1e-10) and of rounding by the step (1e-16 / 1e-5).
        assert float((gradient * probe).sum()) == pytest.approx((steps[0] - steps[1]) / 2e-5, rel=1e-6, abs=1e-9)
        assert float(gradient[index].abs().sum()) > 0 and not gradient[[i for i in range(3) if i != index]].any()


def test_pairs_with_other_numbers_of_phrases_do_not_change_each_other() -> None:
    objective = Objective({"toy": Toy()}, None, CropSettings(num=3), settings())
    together = objective.bind(PAIRS)(images(), generators(), 0)
    for index in range(3):
        alone = objective.bind(PAIRS[index : index + 1])(
            images()[index : index + 1], generators()[index : index + 1], 0
        )
        assert alone.loss[0].equal(together.loss[index]) and alone.matches[0] == together.matches[index]


def test_match_prompt_is_what_it_was_to_the_last_bit() -> None:
    """The settings of phrases change nothing, and no phrase is read."""
    plain = SaliencySettings(Bright(), w_global=0.75, w_salient=0.5)
    other = replace(plain, assign="hungarian", match_temperature=3.0, match_masses=True)
    outputs = [bound(own, {"toy": Toy()})(images(), generators(), 0) for own in (plain, other)]
    outputs += [bound(plain, {"toy": Blind()})(images(), generators(), 0)]
    assert all(output.loss.equal(outputs[0].loss) and output.matches == () for output in outputs)
    for index, regions in enumerate(outputs[0].regions):
        image = images()[index : index + 1]
        losses = Toy()(*_views(image, random_boxes((SIZE, SIZE), 4, generators()[index]), PAIRS[index].prompt))
        expected = 1.25 * losses.mean()
        if regions:
            of_regions = Toy()(*_views(image, regions, PAIRS[index].prompt))
            masses = torch.tensor([region.mass for region in regions], dtype=torch.float64)
            expected = 0.75 * losses.mean() + 0.5 * (masses * of_regions).sum()
        assert outputs[0].loss[index].equal(expected)


def _views(image: Tensor, boxes: Sequence[Region], prompt: str) -> tuple[Tensor, Tensor]:
    return crop_resize(image, [boxes], 12)[0], torch.full((len(boxes), 1), number_of(prompt), dtype=torch.float64)


def test_a_term_that_reads_no_text_keeps_todays_rule() -> None:
    terms, weights = {"toy": Toy(), "blind": Blind()}, {"toy": 1.0, "blind": 2.0}
    both = bound(settings(), terms, weights)(images(), generators(), 0)
    prompt = bound(settings(match="prompt"), terms, weights)(images(), generators(), 0)
    assert both.terms["blind"].equal(prompt.terms["blind"])
    assert not both.terms["toy"].equal(prompt.terms["toy"])
    alone = bound(settings(), {"blind": Blind()})(images(), generators(), 0)
    assert alone.matches == () and alone.terms["blind"].equal(both.terms["blind"])


def test_the_distances_of_several_terms_add_up_by_their_weights() -> None:
    one = bound(settings(), {"toy": Toy()})(images(), generators(), 0)
    two = bound(settings(), {"a": Toy(), "b": Toy()}, {"a": 0.5, "b": 1.5})(images(), generators(), 0)
    for found, expected in zip(sum(two.matches, ()), sum(one.matches, ()), strict=True):
        assert found.distance == pytest.approx(2 * expected.distance, rel=1e-12)
        assert (found.phrase, found.region) == (expected.phrase, expected.region)


def test_evaluate_has_the_whole_image_and_the_last_regions() -> None:
    objective = bound(settings(every_n_steps=10))
    regions = objective(images(), generators(), 0).regions
    moved = images().roll(11, dims=3)
    scores = objective.evaluate(moved)
    whole = Objective({"toy": Toy()}, None, CropSettings(num=0), settings(every_n_steps=10)).bind(PAIRS)
    whole._detection = objective._detection
    expected = whole(moved, generators(), 1)
    assert scores.equal(expected.loss) and expected.regions == regions


def test_without_a_call_each_image_is_evaluated_by_its_own_regions() -> None:
    """So it is for candidates of a search, which `evaluate` alone sees."""
    objective, moved = bound(settings(every_n_steps=10)), images().roll(11, dims=3)
    for batch in (images(), moved):
        whole = Objective({"toy": Toy()}, None, CropSettings(num=0), settings()).bind(PAIRS)
        assert objective.evaluate(batch).equal(whole(batch, generators(), 0).loss)


def test_find_phrases_looks_anew() -> None:
    objective = bound(settings(every_n_steps=10))
    objective(images(), generators(), 0)
    moved = images().roll(11, dims=3)
    found = objective.find_phrases(moved)
    assert found == bound(settings()).find_phrases(moved) != objective.find_phrases(images())
    assert found[2][0].region is None
    assert bound(settings(match="prompt")).find_phrases(moved) == ()
    assert objective._detection is not None and objective.evaluate(moved).shape == (3,)


@pytest.mark.parametrize("assign", ["softmin", "hungarian"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_that_diverged_does_not_harm_the_others(bad: float, assign: Any) -> None:
    batch = images()
    batch[1, :, 3:20, 3:20] = bad
    broken = bound(settings(assign=assign))(batch, generators(), 0)
    sound = bound(settings(assign=assign))(images(), generators(), 0)
    assert broken.loss.isfinite().tolist() == [True, False, True]
    assert broken.loss[[0, 2]].equal(sound.loss[[0, 2]]) and broken.regions[1] == ()


def test_a_state_keeps_the_regions() -> None:
    first = bound(settings(every_n_steps=10))
    first(images(), generators(), 0)
    second = bound(settings(every_n_steps=10))
    second.load_state_dict(first.state_dict())
    moved = images() * 0.9
    one, other = first(moved, generators(), 1), second(moved, generators(), 1)
    assert one.loss.equal(other.loss) and one.matches == other.matches


def test_text_alignment_embeds_each_view_once(clip_tower: ClipTower, monkeypatch: pytest.MonkeyPatch) -> None:
    term = TextAlignment(clip_tower)
    views = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    targets = term.phrase_targets(["a cat", "two dogs"])
    assert targets.equal(term.targets([PromptSeed("a cat"), PromptSeed("two dogs")]))
    index = torch.tensor([0, 0, 1, 2, 2])
    wanted = targets[[0, 1, 0, 1, 0]]
    expected = term(views[index], wanted)
    seen: list[int] = []
    encode = clip_tower.encode_image
    monkeypatch.setattr(clip_tower, "encode_image", lambda images: seen.append(len(images)) or encode(images))
    # float32 products in blocks of another size.
    torch.testing.assert_close(term.paired(views, index, wanted), expected, rtol=1e-5, atol=1e-6)
    assert seen == [3]


def test_grad_cam_looks_for_each_phrase(clip_tower: ClipTower) -> None:
    batch = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    detector = GradCam(clip_tower)
    own = settings(detector=detector, max_regions=2)
    output = Objective({"text": TextAlignment(clip_tower)}, None, CropSettings(num=2), own).bind(PAIRS)(
        batch, generators(), 0
    )
    for index, phrases in enumerate(PHRASES):
        maps = [detector.bind([PromptSeed(phrase)])(batch[index : index + 1])[0] for phrase in phrases]
        assert output.saliency_map is not None
        # A map is stretched to [0, 1] by its own extremes, which enlarges rounding.
        torch.testing.assert_close(output.saliency_map[index], torch.stack(maps).amax(dim=0), rtol=1e-3, atol=1e-3)
        regions = output.regions[index]
        assert {region.phrase for region in regions} <= set(range(len(phrases)))
        assert not regions or sum(region.mass for region in regions) == pytest.approx(1)
        for number, found in enumerate(output.matches[index]):
            there = [region for region in regions if region.phrase == number]
            assert found.region in there if there else found.region is None
            boxes = [replace(region, phrase=None, mass=1) for region in there]
            searched = find_regions(maps[number][0], max_regions=2, margin=0.0)
            assert boxes == [replace(region, mass=1) for region in searched]


def test_grad_cam_with_a_query_looks_for_that(clip_tower: ClipTower) -> None:
    detector = GradCam(clip_tower, query="a cat")
    assert detector.for_texts(["a dog"]) is None
    own = settings(detector=detector)
    terms = {"text": TextAlignment(clip_tower)}
    output: ObjectiveOutput = Objective(terms, None, CropSettings(num=2), own).bind(PAIRS)(
        torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4)), generators(), 0
    )
    assert all(region.phrase is None for found in output.regions for region in found)


@pytest.mark.parametrize("assign", ["softmin", "hungarian"])
def test_regions_of_a_phrase_answer_for_it_alone(assign: Any) -> None:
    regions = [
        replace(WHOLE, mass=0.2, phrase=0),
        replace(WHOLE, mass=0.3, phrase=0),
        replace(WHOLE, mass=0.5, phrase=2),
    ]
    views = looked_at(regions, WHOLE, 3)
    assert views == (*regions, replace(WHOLE, phrase=1))
    distances = torch.tensor(
        [[0.3, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, 0.0, 0.7], [0.0, 0.9, 0.0]], dtype=torch.float64, requires_grad=True
    )
    own = settings(assign=assign, match_masses=True)
    loss, chosen = match(distances, views, own)
    parts = [by_hand([[0.3], [0.4]], [0.4, 0.6], own), 0.9, 0.7]
    assert float(loss.detach()) == pytest.approx(sum(parts) / 3, rel=1e-12)
    assert chosen[1:] == [3, 2] and chosen[0] in (0, 1)
    (gradient,) = torch.autograd.grad(loss, distances)
    assert bool(gradient.isfinite().all()) and float(gradient.sum()) == pytest.approx(1)
    assert not gradient[distances.detach() == 0].any()


def test_nothing_to_look_at_but_the_whole_image() -> None:
    assert looked_at((), WHOLE, 3) == (WHOLE,)
    shared = replace(WHOLE, height=5, mass=1.0)
    assert looked_at((shared,), WHOLE, 3) == (shared,)
    none = bound(settings(max_regions=0))(images(), generators(), 0)
    assert all(found.region is None for own in none.matches for found in own) and none.regions == ((), (), ())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("match", "words", "saliency.match must be 'prompt' or 'phrases', got 'words'"),
        ("assign", "greedy", "saliency.assign must be 'softmin' or 'hungarian', got 'greedy'"),
        ("match_temperature", 0.0, "saliency.match_temperature must be above 0, got 0.0"),
        ("match_temperature", float("nan"), "saliency.match_temperature must be above 0, got nan"),
    ],
)
def test_bad_settings(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        settings(**{key: value})


def test_settings_of_a_checkpoint_say_how_regions_are_matched() -> None:
    objectives = [Objective({"toy": Toy()}, saliency=settings(assign=assign)) for assign in ("softmin", "hungarian")]
    assert objectives[0].checkpoint_settings() != objectives[1].checkpoint_settings()
