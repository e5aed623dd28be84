"""The objective of videos: the mean over frames of the objective of images, with salient regions in each frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.models.clip import ClipTower
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.prompts.seeding import pair_generator
from sgool.results.sheets import chosen_frames, contact_sheet, cut_sheet, encode_gif, place_on_sheet, sheet_shape
from sgool.saliency import SpectralResidual
from sgool.types import PromptSeed

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2))


def videos(frames: int = 5) -> Tensor:
    return torch.rand(2, 3, frames, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def goal(clip: ClipTower, frames: int | None = None, **saliency: Any) -> Objective:
    found = SaliencySettings(SpectralResidual(), **saliency) if saliency else None
    return Objective({"text": TextAlignment(clip)}, {"text": 2.0}, CropSettings(num=2), found, frames=frames)


def generators(pairs: Any = PAIRS) -> list[torch.Generator]:
    return [pair_generator(pair.seed, "crops0", 4) for pair in pairs]


def test_frames_are_chosen_at_equal_distances() -> None:
    assert chosen_frames(5, None) == chosen_frames(5, 9) == [0, 1, 2, 3, 4]
    assert (chosen_frames(9, 1), chosen_frames(9, 2), chosen_frames(9, 3)) == ([4], [0, 8], [0, 4, 8])
    assert chosen_frames(81, 5) == [0, 20, 40, 60, 80]


@pytest.mark.parametrize("number", [None, 3, 1])
@pytest.mark.parametrize("salient", [False, True])
def test_it_is_the_mean_over_frames(clip64: ClipTower, number: int | None, salient: bool) -> None:
    """Against the objective of images, frame by frame: crops come from the pair's one generator, in order."""
    settings = {"w_salient": 0.7} if salient else {}
    made, chosen = videos(), chosen_frames(5, number)
    made.requires_grad_(True)
    output = goal(clip64, number, **settings).bind(PAIRS)(made, generators(), 0)
    own, losses, maps, regions = generators(), [], [], []
    for index, pair in enumerate(PAIRS):
        frames = [
            goal(clip64, **settings).bind([pair])(made[index : index + 1, :, at], [own[index]], 0) for at in chosen
        ]
        losses.append(torch.stack([frame.loss for frame in frames]).mean())
        maps.append([frame.saliency_map for frame in frames])
        regions.append([region for frame in frames for region in (frame.regions[0] if frame.regions else ())])
    # float64: only the order of sums differs.
    torch.testing.assert_close(output.loss, torch.stack(losses), rtol=1e-9, atol=0)
    (got,) = torch.autograd.grad(output.loss.sum(), made, retain_graph=True)
    (expected,) = torch.autograd.grad(torch.stack(losses).sum(), made)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-12)
    assert bool((got[:, :, [at for at in range(5) if at not in chosen]] == 0).all())
    assert [list(found) for found in output.regions] == regions
    if not salient:
        assert output.saliency_map is None
        return
    assert output.saliency_map is not None and output.saliency_map.shape == (2, 1, 5, 32, 32)
    for index, found in enumerate(maps):
        for at, one in zip(chosen, found, strict=True):
            assert one is not None
            torch.testing.assert_close(output.saliency_map[index, :, at], one[0], rtol=0, atol=1e-12)
    if number == 3:  # frames 0, 2, 4: one that is not looked at has the map of a neighbour
        assert output.saliency_map[:, :, 1].equal(output.saliency_map[:, :, 0])


def test_selection_regions_and_their_state(clip64: ClipTower) -> None:
    made = videos()
    first = goal(clip64, 3, every_n_steps=5).bind(PAIRS)
    first(made, generators(), 0)
    score = first.evaluate(made)
    other = goal(clip64, 3, every_n_steps=5).bind(PAIRS)
    other.load_state_dict(first.state_dict())
    assert len(first.state_dict()["maps"]) == 2 * 3
    # The regions of update 0 are kept: other frames have no say.
    assert other(videos().flip(2), generators(), 1).regions == first(made, generators(), 1).regions
    assert other.evaluate(made).equal(score)
    alone = goal(clip64, 3, every_n_steps=5).bind(PAIRS[1:])
    alone(made[1:], generators(PAIRS[1:]), 0)
    torch.testing.assert_close(alone.evaluate(made[1:]), score[1:], rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"expected videos of shape \(2, 3, F, H, W\), got \(1, 3, 5, 32, 32\)"):
        first(made[:1], generators(), 0)


def test_phrases_are_found_on_the_contact_sheet(clip64: ClipTower) -> None:
    settings: dict[str, Any] = {"match": "phrases"}
    made, pairs = videos(), [PromptSeed("a red cat and a blue house", 1, phrases=("a red cat", "a blue house"))]
    (found,) = goal(clip64, **settings).bind(pairs).find_phrases(made[:1])
    frames = [goal(clip64, **settings).bind(pairs).find_phrases(made[:1, :, at])[0] for at in range(5)]
    for number, match in enumerate(found):
        distances = [frame[number].distance for frame in frames]
        nearest = distances.index(min(distances))
        assert match.distance == pytest.approx(sum(distances) / 5, rel=1e-9)
        own, region = frames[nearest][number].region, match.region
        assert own is not None and region is not None
        top, left = place_on_sheet(nearest, 5, 32, 32)
        assert (region.top, region.left, region.height) == (own.top + top, own.left + left, own.height)


def test_sheets_keep_every_pixel() -> None:
    import io

    from PIL import Image

    for frames in (1, 2, 5, 9, 17):
        video = torch.rand(3, frames, 8, 12).numpy()
        sheet = contact_sheet(video)
        rows, columns = sheet_shape(frames)
        assert sheet.shape == (3, rows * 8, columns * 12) and rows * columns >= frames > (rows - 1) * columns
        assert (cut_sheet(sheet, frames) == video).all()
        with Image.open(io.BytesIO(encode_gif((255 * video).astype("uint8")))) as animation:
            assert (getattr(animation, "n_frames", 1), animation.size) == (frames, (12, 8))
    with pytest.raises(ValueError, match="a sheet of 5 frames has 2 rows and 3 columns"):
        cut_sheet(torch.zeros(3, 9, 9).numpy(), 5)
