"""Each judge against the code that it was published with, on 8-bit photos of many sizes; the weights are tiny."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torchvision.transforms.functional as TF
import transformers
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from transformers import CLIPModel, CLIPTokenizer

from sgool.metrics import ClipScore, Diversity, ImageSimilarity
from sgool.metrics.build import build_judges
from sgool.metrics.distribution import ClipFeatures
from sgool.models.clip import load_clip
from sgool.models.networks import Networks
from sgool.objectives import build_term
from sgool.types import PromptSeed
from tests.models import test_aesthetic as aesthetic
from tests.models import test_image_reward as image_reward
from tests.models import test_preference as preference
from tests.photos import SIZES, as_batch, photo

pick_folder, hps_file, reward_folder = preference.pick_folder, preference.hps_file, image_reward.folder
PROMPT = "a red cat"
#: Like the issue's 519x512: (resized side - 24) mod 4 is 3, where rounding down and rounding half to even differ.
FLOORED = (27, 24)


def judge(kind: str, options: dict[str, Any]) -> Any:
    (metric,) = build_judges({"j": {"type": kind, **options}}, {}, Networks({"device": "cpu"}))["j"]
    return metric


def scores(metric: Any, prompt: str = PROMPT, sizes: Any = SIZES) -> list[float]:
    return [float(metric.score(as_batch(photo(*size)), [prompt])[0]) for size in sizes]


def edited(folder: Path, copy: Path, **settings: Any) -> Path:
    shutil.copytree(folder, copy)
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= settings
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("fixture", ["clip_folder", "wordpiece_folder"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_clip_score_with_every_resize_mode_of_open_clip(
    fixture: str, mode: str, interpolation: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = {"resize_mode": mode, "interpolation": interpolation, "fill_color": 40}
    folder = edited(request.getfixturevalue(fixture), tmp_path / "clip", **settings)
    network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    network.eval()
    tower = load_clip(str(folder))
    prompts = (PROMPT, "an elephant")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(prompts))
    with torch.no_grad():
        text = network.encode_text(tokens, normalize=True)
        shown = [network.encode_image(preprocess(photo(*size))[None], normalize=True) for size in SIZES]
    for prompt, v in zip(prompts, text, strict=True):
        expected = [max(100 * float(u[0] @ v), 0) for u in shown]
        # The same pixels and network: 1e-5 of a score of up to 100.
        assert scores(ClipScore(tower), prompt) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    # Likeness, diversity and FID's features see the same.
    reference, others = as_batch(photo(40, 70, 1)), torch.cat([as_batch(photo(33, 47, seed)) for seed in range(3)])
    with torch.no_grad():
        w = network.encode_image(preprocess(photo(40, 70, 1))[None], normalize=True)
        z = torch.cat(
            [network.encode_image(preprocess(photo(33, 47, seed))[None], normalize=True) for seed in range(3)]
        )
    likeness = [float(ImageSimilarity(tower, [reference[0]]).score(as_batch(photo(*size)))[0]) for size in SIZES]
    assert likeness == pytest.approx([100 * float(u[0] @ w[0]) for u in shown], rel=1e-5, abs=1e-5)
    pairs = [1 - float(z[i].double() @ z[j].double()) for i in range(3) for j in range(i)]
    assert float(Diversity(tower).score(others)[0]) == pytest.approx(sum(pairs) / 3, abs=1e-6)
    torch.testing.assert_close(ClipFeatures(tower)(others), z * z.shape[1] ** 0.5, atol=1e-5, rtol=1e-5)


def test_aesthetic(clip_folder: Path, tmp_path: Path) -> None:
    """LAION's predictors: OpenAI's own preprocessing, which open_clip's "shortest" is, unit embedding, head."""
    head = aesthetic.linear_file(tmp_path / "head.pth", 16)
    metric = judge("aesthetic", {"clip": {"model": str(clip_folder), "pretrained": None}, "checkpoint": str(head)})
    network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    linear = nn.Linear(16, 1)
    linear.load_state_dict(torch.load(head, weights_only=True))
    with torch.no_grad():
        shown = [network.eval().encode_image(preprocess(photo(*size))[None], normalize=True) for size in SIZES]
        expected = [float(linear(u)) for u in shown]
    assert scores(metric) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def hps_pixels(image: Image.Image, size: int = 32) -> Tensor:
    """HPSv2's ``preprocess_val``: a float tensor, its longest side resized, black borders, OpenAI's constants."""
    pixels = ToTensor()(image)
    scale = size / float(max(pixels.shape[1:]))
    height, width = (round(side * scale) for side in pixels.shape[1:])
    pixels = TF.resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
    down, right = size - height, size - width
    pixels = TF.pad(pixels, [right // 2, down // 2, right - right // 2, down - down // 2], fill=0)
    return Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)(pixels)[None]


def test_hps_pads_to_the_longest_side(hps_file: Path) -> None:
    options = {"clip": {"model": preference.ARCHITECTURE, "pretrained": str(hps_file)}}
    network = open_clip.create_model(preference.ARCHITECTURE).eval()
    network.load_state_dict(torch.load(hps_file, weights_only=True)["state_dict"])
    with torch.no_grad():
        text = network.encode_text(open_clip.get_tokenizer(preference.ARCHITECTURE)([PROMPT]), normalize=True)
        shown = [network.encode_image(hps_pixels(photo(*size)), normalize=True) for size in SIZES]
    expected = [float(u[0] @ text[0]) for u in shown]
    assert scores(judge("hps", options)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    # Its objective sees the same, with gradient: the published resize is one of floats.
    term = build_term(
        "t", {"type": "hps", "goal": "maximize", "views": "whole", **options}, Networks({"device": "cpu"})
    )
    targets = term.targets([PromptSeed(PROMPT, 0)])
    for size, value in zip(SIZES, expected, strict=True):
        batch = as_batch(photo(*size)).requires_grad_()
        loss = term(batch, targets)
        assert float(loss.detach()) == pytest.approx(-value, abs=1e-6)
        (gradient,) = torch.autograd.grad(loss.sum(), batch)
        # Every edge of the image is seen: a crop would leave rows or columns without gradient.
        for edge in (gradient[..., 0, :], gradient[..., -1, :], gradient[..., 0], gradient[..., -1]):
            assert float(edge.abs().max()) > 0


def pillow_processor(folder: Path) -> Any:
    """transformers' processor that resizes with Pillow, as all did when PickScore was published (4.27.3)."""
    name = "CLIPImageProcessorPil" if hasattr(transformers, "CLIPImageProcessorPil") else "CLIPImageProcessor"
    return getattr(transformers, name).from_pretrained(folder)


@pytest.mark.parametrize("shortest", [24, 29])
def test_pick_score_rounds_the_crop_down(pick_folder: Path, tmp_path: Path, shortest: int) -> None:
    folder = Path(shutil.copytree(pick_folder, tmp_path / "pick"))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings["size"] = {"shortest_edge": shortest}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    network, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    processor = pillow_processor(folder)
    sizes = (*SIZES, FLOORED, (24, 31), (512, 519), (519, 512))
    metric = judge("pickscore", {"model": str(folder), "processor": str(folder)})
    with torch.no_grad():
        words = tokenizer([PROMPT], return_tensors="pt")
        shown = [processor(images=photo(*size), return_tensors="pt") for size in sizes]
        expected = [float(network(**words, **pixels).logits_per_image) for pixels in shown]
    assert scores(metric, sizes=sizes) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    # The objective crops at the same pixel; where nothing is resized it sees the same pixels.
    options = {"type": "pickscore", "model": str(folder), "processor": str(folder)}
    term = build_term("t", {**options, "goal": "maximize", "views": "whole"}, Networks({"device": "cpu"}))
    if shortest == 24:
        loss = term(as_batch(photo(*FLOORED)), term.targets([PromptSeed(PROMPT, 0)]))
        assert float(loss.detach()) == pytest.approx(-expected[len(SIZES)], rel=1e-5)


def test_image_reward(reward_folder: Path) -> None:
    """Its ``_transform``: bicubic resize by Pillow, centre crop; BLIP in float64, so that the reward is exact."""
    state = torch.load(reward_folder / "ImageReward.pt", weights_only=True)
    metric = judge(
        "image_reward",
        {
            "checkpoint": str(reward_folder / "ImageReward.pt"),
            "med_config": str(reward_folder / "med_config.json"),
            "tokenizer": str(reward_folder / "tokenizer"),
        },
    )
    scorer = metric._scorer[0]
    ids, mask = scorer.encode_prompts([PROMPT]).split(35, dim=1)
    transform = Compose([Resize(16, InterpolationMode.BICUBIC), CenterCrop(16), ToTensor()])
    reference = image_reward.Reference(state)
    expected = [float(reference.reward(transform(photo(*size))[None].double(), ids, mask)) for size in SIZES]
    assert max(expected) - min(expected) > 1e-4  # it tells the photos apart
    assert scores(metric) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_float_images_are_scored_as_their_8_bit_files(clip_folder: Path) -> None:
    metric = ClipScore(load_clip(str(clip_folder)))
    for size in ((32, 32), (48, 80)):
        batch = as_batch(photo(*size))
        near = batch + 0.9 / 255 * (torch.rand(batch.shape, generator=torch.Generator().manual_seed(0)) - 0.5)
        assert torch.equal(metric.score(near, ["an elephant"]), metric.score(batch, ["an elephant"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_judges_of_other_precisions_see_the_same_pixels(clip_folder: Path, dtype: torch.dtype) -> None:
    full, other = load_clip(str(clip_folder)), load_clip(str(clip_folder), dtype=dtype)
    seen: list[Tensor] = []
    other.model.visual.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    batch = as_batch(photo(48, 80))
    ClipScore(other).score(batch, [PROMPT])
    expected = full.preprocess(full.as_published(batch), torch.float32)
    # One rounding to the network's own type, after the normalisation.
    torch.testing.assert_close(seen[0].float(), expected.to(dtype).float(), atol=1e-6, rtol=0)
    assert np.isfinite(float(ClipScore(other).score(batch.to(dtype), [PROMPT])))
