from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.multimodal import CLIPScore

from sgool.metrics import ClipScore
from sgool.models.clip import ClipTower

PROMPTS = ["a red cat", "two green trees", "an elephant", "a house", "a heart"]


def images(number: int = 5) -> Tensor:
    """Images with levels of 8 bits at the tower's size, which a judge only normalises."""
    return (torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def test_is_a_hundred_times_the_cosine(clip_tower: ClipTower) -> None:
    got = ClipScore(clip_tower).score(images(), PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        u = clip_tower.encode_image(images()[index : index + 1]).double()[0]
        v = clip_tower.encode_text([prompt]).double()[0]
        cosine = float(u @ v / (u.norm() * v.norm()))
        # float32 features.
        assert float(got[index]) == pytest.approx(max(100 * cosine, 0), abs=1e-4)


def test_negative_cosines_count_as_zero(clip_tower: ClipTower) -> None:
    clip: Any = SimpleNamespace(
        encode_image=lambda x: -clip_tower.encode_text(PROMPTS), encode_text=clip_tower.encode_text
    )
    assert ClipScore(clip).score(images(), PROMPTS).tolist() == [0] * 5


def test_batches_add_up_to_one_batch(clip_tower: ClipTower) -> None:
    whole, parts = ClipScore(clip_tower), ClipScore(clip_tower)
    whole.update(images(), PROMPTS)
    for begin, end in ((0, 1), (1, 4), (4, 5)):
        parts.update(images()[begin:end], PROMPTS[begin:end])
    # float32 features of other batch sizes, float64 sums.
    assert float(parts.compute()) == pytest.approx(float(whole.compute()), abs=1e-4)
    assert float(whole.compute()) == pytest.approx(
        float(ClipScore(clip_tower).score(images(), PROMPTS).mean()), abs=1e-4
    )
    parts.reset()
    assert float(parts.number) == 0


def test_out_of_range_pixels_are_cut(clip_tower: ClipTower) -> None:
    wild = images() * 3 - 1
    metric = ClipScore(clip_tower)
    assert metric.score(wild, PROMPTS).equal(metric.score(wild.clamp(0, 1), PROMPTS))


class _AsTransformers(torch.nn.Module):
    """The tower with the interface that torchmetrics expects of a transformers CLIP, features not normalised."""

    config = SimpleNamespace()

    def __init__(self, clip: ClipTower) -> None:
        super().__init__()
        self.clip = clip

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        return 3 * self.clip.encode_image(pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return 2 * self.clip.encode_text([PROMPTS[int(i)] for i in input_ids])


def _processor(images: Any = None, text: Any = None, **_: Any) -> dict[str, Tensor]:
    if images is not None:
        return {"pixel_values": torch.stack(images)}
    ids = torch.tensor([PROMPTS.index(prompt) for prompt in text])
    return {"input_ids": ids, "attention_mask": ids[:, None]}


def test_scale_and_mean_are_those_of_torchmetrics(clip_tower: ClipTower) -> None:
    ours, theirs = ClipScore(clip_tower), CLIPScore(lambda: (_AsTransformers(clip_tower), _processor))
    shown = images()
    # Keep those with a positive cosine: torchmetrics cuts the mean at 0, not each image.
    scores = torch.stack([ours.score(shown, [prompt] * len(shown)) for prompt in PROMPTS])
    good = (scores > 0).nonzero().tolist()
    assert len(good) >= 2
    for prompt, image in good:
        ours.update(shown[image : image + 1], [PROMPTS[prompt]])
        theirs.update(shown[image], PROMPTS[prompt])
    assert float(ours.compute()) == pytest.approx(float(theirs.compute()), abs=1e-4)


def test_the_network_is_no_state(clip_tower: ClipTower) -> None:
    metric = ClipScore(clip_tower)
    assert list(metric.parameters()) == [] and set(metric.metric_state) == {"total", "number"}


def test_as_many_prompts_as_images(clip_tower: ClipTower) -> None:
    with pytest.raises(ValueError, match="as many prompts as images, got 1 and 5"):
        ClipScore(clip_tower).update(images(), PROMPTS[:1])
