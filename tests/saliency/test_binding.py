"""Detectors inside an objective: pairs' texts, and maps in which nothing stands out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.clip import ClipTower
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.saliency import FixedSaliency, GradCam, SaliencyDetector, SpectralResidual
from sgool.types import PromptSeed

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2))


class OfMaps:
    """A detector by hand: says what it was given."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps

    def __call__(self, images: Tensor) -> Tensor:
        return self.maps


def objective(tower: ClipTower, detector: SaliencyDetector | None, **knobs: float) -> Objective:
    saliency = None if detector is None else SaliencySettings(detector, w_global=0.75, w_salient=0.25, **knobs)  # type: ignore[arg-type]
    return Objective({"text": TextAlignment(tower)}, {"text": 1.0}, CropSettings(num=2), saliency)


def images(number: int = 2) -> Tensor:
    return torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(2)]


def test_an_objective_gives_the_detector_its_pairs(clip_tower: ClipTower) -> None:
    free = objective(clip_tower, GradCam(clip_tower))
    output = free.bind(PAIRS)(images(), generators(), 0)
    assert output.saliency_map is not None
    torch.testing.assert_close(output.saliency_map, GradCam(clip_tower).bind(PAIRS)(images()))
    # Binding other pairs later starts from the same, unbound objective.
    again = free.bind(PAIRS[::-1])(images(), generators(), 0)
    torch.testing.assert_close(again.saliency_map, GradCam(clip_tower).bind(PAIRS[::-1])(images()))


def test_detectors_that_see_images_alone_stay_as_they_are(clip_tower: ClipTower) -> None:
    free = objective(clip_tower, SpectralResidual())
    assert free.bind(PAIRS).objective.saliency is free.saliency


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 1), st.integers(1, 4), st.integers(0, 2**31))
def test_without_a_region_the_global_term_has_all_weight(
    clip_tower: ClipTower, threshold: float, max_regions: int, seed: int
) -> None:
    batch = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    nothing = objective(clip_tower, OfMaps(torch.zeros(2, 1, 32, 32)), threshold=threshold, max_regions=max_regions)
    output = nothing.bind(PAIRS)(batch, generators(), 0)
    assert output.regions == ((), ())
    plain = objective(clip_tower, None).bind(PAIRS)(batch, generators(), 0)
    # 0.75 + 0.25 = 1 of the same crops.
    torch.testing.assert_close(output.loss, plain.loss)


def test_one_image_without_a_region_leaves_the_others_theirs(clip_tower: ClipTower) -> None:
    maps = torch.zeros(2, 1, 32, 32)
    maps[1, 0, 4:9, 4:9] = 1
    output = objective(clip_tower, OfMaps(maps)).bind(PAIRS)(images(), generators(), 0)
    assert [len(regions) for regions in output.regions] == [0, 1]


def test_no_regions_wanted_is_global_only(clip_tower: ClipTower) -> None:
    detector = FixedSaliency(boxes=[[0, 0, 0.5, 0.5]])
    output = objective(clip_tower, detector, max_regions=0).bind(PAIRS)(images(), generators(), 0)
    assert output.regions == ((), ())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_stop_with_advice(clip_tower: ClipTower, bad: float) -> None:
    maps = torch.zeros(2, 1, 32, 32)
    maps[0, 0, 3, 3] = bad
    with pytest.raises(SgoolError, match=r"NaN or infinite values.*Check the detector's weights"):
        objective(clip_tower, OfMaps(maps)).bind(PAIRS)(images(), generators(), 0)


def test_an_image_that_is_not_finite_has_no_regions_and_the_other_one_stands(clip_tower: ClipTower) -> None:
    batch = images()
    batch[0, 0, 0, 0] = float("nan")
    output = objective(clip_tower, GradCam(clip_tower)).bind(PAIRS)(batch, generators(), 0)
    assert output.saliency_map is not None and not output.saliency_map[0].any() and output.regions[0] == ()
    torch.testing.assert_close(output.saliency_map[1:], GradCam(clip_tower).bind(PAIRS[1:])(images()[1:]))


@pytest.mark.parametrize("shape", [(2, 32, 32), (2, 1, 16, 16), (1, 1, 32, 32), (2, 3, 32, 32)])
def test_maps_of_another_shape_are_refused(clip_tower: ClipTower, shape: tuple[int, ...]) -> None:
    """They would broadcast, and give every image the regions of the first."""
    words = rf"saliency detector OfMaps: expected maps of shape \(2, 1, 32, 32\).*got \({', '.join(map(str, shape))}\)"
    with pytest.raises(SgoolError, match=words):
        objective(clip_tower, OfMaps(torch.rand(shape))).bind(PAIRS)(images(), generators(), 0)


def test_a_map_that_is_not_finite_names_its_image(clip_tower: ClipTower) -> None:
    maps = torch.rand(2, 1, 32, 32)
    maps[1, 0, 3, 3] = torch.nan
    # A detector may make no number of the black image that stands for one that is lost; that harms no other image.
    lost = images()
    lost[1] = torch.nan
    output = objective(clip_tower, OfMaps(maps)).bind(PAIRS)(lost, generators(), 0)
    assert output.saliency_map is not None and output.saliency_map.isfinite().all() and not output.regions[1]
    with pytest.raises(SgoolError, match="saliency map of image 1 of 2 holds NaN"):
        objective(clip_tower, OfMaps(maps)).bind(PAIRS)(images(), generators(), 0)
