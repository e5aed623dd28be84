"""Answers of vision-language models, on tiny random Qwen2.5-VL and Qwen3-VL, against transformers' own generation."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from sgool.errors import SgoolError
from sgool.models.vlm import VisionLanguageModel, load_vision_language
from sgool.models.vlm_pixels import PatchedPixels
from tests.tiny_vlm import KINDS, PATCH, save_vlm

QUESTION = 'Does this figure show "a red cat"? Please answer yes or no.'
YES = ("Yes", "yes", " yes", " Yes")
#: Penalty of Qwen2.5-VL's public generation_config.json, made larger so that it shows.
PENALTY = 1.3


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    penalty = PENALTY if request.param == "qwen2_5_vl" else None
    return save_vlm(tmp_path_factory.mktemp("vlm") / request.param, request.param, penalty)


def image(height: int, width: int, seed: int = 0) -> Tensor:
    """Levels of 8 bits with noise, which a wrong interpolation changes by many levels."""
    return (torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 255).round() / 255


def picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def published(folder: Path, pixels: Tensor, question: str, answers: tuple[str, ...]) -> float:
    """The public recipe: the scores of one generated token, softmax, and the sum over the answers' first tokens."""
    network: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    message = [{"type": "image", "image": picture(pixels)}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": message}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        made = network.generate(
            **inputs, max_new_tokens=1, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
    chances = made.scores[0][0].double().softmax(dim=-1)
    return sum(float(chances[processor.tokenizer.encode(answer)[0]]) for answer in answers)


@pytest.mark.parametrize("answers", [("Yes",), YES])
def test_a_probability_is_that_of_the_public_recipe(folder: Path, answers: tuple[str, ...]) -> None:
    model = load_vision_language(str(folder))
    for size in ((32, 32), (40, 57)):
        got = model.probability(image(*size), QUESTION, answers)
        # float32 softmax here, float64 there.
        assert got == pytest.approx(published(folder, image(*size), QUESTION, answers), rel=1e-5)
        assert 0 < got < 1


def test_the_penalty_of_the_model_s_own_settings_counts(folder: Path, tmp_path: Path) -> None:
    model = load_vision_language(str(folder))
    assert model.repetition_penalty == (PENALTY if "qwen2_5" in folder.name else 1.0)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps({**settings, "repetition_penalty": 2.0}))
    other = load_vision_language(str(copy))
    seen = image(32, 32)
    assert other.probability(seen, QUESTION, ("Yes",)) != model.probability(seen, QUESTION, ("Yes",))
    assert other.probability(seen, QUESTION, ("Yes",)) == pytest.approx(
        published(copy, seen, QUESTION, ("Yes",)), rel=1e-5
    )


def test_answers_depend_on_image_and_question(folder: Path) -> None:
    model = load_vision_language(str(folder))
    found = {model.probability(image(32, 32, seed), question, ("Yes",)) for seed in (0, 1) for question in ("A?", "B?")}
    assert len(found) == 4


def test_spellings_of_one_token_count_once(folder: Path) -> None:
    model = load_vision_language(str(folder))
    seen = image(32, 32)
    assert len(set(model.answer_tokens(YES))) == 4
    once = model.probability(seen, QUESTION, ("Yes",))
    assert model.probability(seen, QUESTION, ("Yes", "Yes", "Yesterday")) == once
    parts = [model.probability(seen, QUESTION, (answer,)) for answer in YES]
    assert model.probability(seen, QUESTION, YES) == pytest.approx(sum(parts), rel=1e-5)
    with pytest.raises(SgoolError, match="makes a token, got \\[''\\]"):
        model.answer_tokens([""])


# --- with a gradient ------------------------------------------------------------------------------------------------


def _inputs(model: VisionLanguageModel, pixels: Tensor) -> dict[str, Any]:
    return model._inputs(pixels, "?")


@pytest.mark.parametrize("size", [(32, 32), (40, 57), (100, 90), (9, 30), (8, 64)])
def test_pixels_with_a_gradient_are_the_processor_s(folder: Path, size: tuple[int, int]) -> None:
    model = load_vision_language(str(folder))
    # Softer than white noise, of which the resize makes values outside [0, 1] everywhere.
    seen = ((image(*size) * 0.5 + 0.25) * 255).round() / 255
    inputs = _inputs(model, seen)
    pixels = PatchedPixels.of(AutoProcessor.from_pretrained(folder).image_processor)
    found = pixels(seen, inputs["image_grid_thw"])
    assert found.shape == inputs["pixel_values"].shape
    resized = tuple(side * PATCH for side in inputs["image_grid_thw"][0, 1:].tolist()) != size
    # The processor rounds to 8 bits after the horizontal and after the vertical pass: half a level, times up to 1.25 by
    # bicubic weights, and half a level. Without a resize nothing rounds.
    assert pixels.levels(found - inputs["pixel_values"]) <= (1.25 if resized else 1e-3)


def test_a_gradient_passes_where_the_resize_overshoots(folder: Path) -> None:
    pixels = PatchedPixels.of(AutoProcessor.from_pretrained(folder).image_processor)
    edge = torch.zeros(3, 20, 20)
    edge[:, :, 10:] = 1
    edge.requires_grad_()
    found = pixels(edge, torch.tensor([[1, 8, 8]]))
    mean, std = torch.tensor(pixels.mean), torch.tensor(pixels.std)
    levels = found.view(len(found), 3, -1) * std[:, None] + mean[:, None]
    # float32 of values up to 3.
    assert float(levels.detach().min()) > -1e-5 and float(levels.detach().max()) < 1 + 1e-5
    found.sum().backward()
    assert edge.grad is not None and int((edge.grad.abs() > 0).sum()) == edge.numel()


def test_the_gradient_is_that_of_finite_differences(folder: Path) -> None:
    model = load_vision_language(str(folder), "float32").double()
    seen = (image(20, 28).double() * 0.5 + 0.25).requires_grad_()
    wanted, rest = model.log_probability(seen, QUESTION, ("Yes",))
    assert float((wanted.exp() + rest.exp()).detach()) == pytest.approx(1, abs=1e-12)
    (gradient,) = torch.autograd.grad(wanted, seen, retain_graph=True)
    (other,) = torch.autograd.grad(rest, seen)
    # d log(1 - P) = -P / (1 - P) d log P.
    torch.testing.assert_close(other, -gradient * (wanted - rest).detach().exp())
    up = gradient / gradient.norm()
    with torch.no_grad():
        high, low = (model.log_probability(seen + h * up, QUESTION, ("Yes",))[0] for h in (1e-3, -1e-3))
    # Central differences along the gradient. The network's norms compute in float32: 1e-6 of a value of about 5, over
    # the step of 2e-3; a wrong mean, patch order or penalty changes the slope by much more.
    assert float(high - low) / 2e-3 == pytest.approx(float(gradient.norm()), rel=2e-2, abs=5e-3)


def test_a_network_in_half_precision(folder: Path) -> None:
    exact, half = load_vision_language(str(folder), "float32"), load_vision_language(str(folder), "bfloat16")
    assert half.network.dtype == torch.bfloat16
    seen = image(32, 32).requires_grad_()
    wanted, _ = half.log_probability(seen, QUESTION, YES)
    assert wanted.dtype == torch.float32
    wanted.backward()
    assert seen.grad is not None and bool(seen.grad.isfinite().all()) and float(seen.grad.abs().max()) > 0
    # Two layers in bfloat16, of 8 bits, on logits of about 10.
    close = exact.probability(image(32, 32), QUESTION, YES)
    assert float(wanted.detach()) == pytest.approx(math.log(close), abs=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = exact.log_probability(image(32, 32), QUESTION, YES)
    assert found.dtype == torch.float32 and float(found.detach()) == pytest.approx(math.log(close), abs=0.5)


def test_a_processor_whose_pixels_are_not_known_is_refused(folder: Path) -> None:
    model = load_vision_language(str(folder))
    model.check_differentiable()
    model._processor.image_processor.resample = 2
    with pytest.raises(SgoolError, match=r"an image processor like that of Qwen-VL, .*can be a judge, but not a term"):
        model.check_differentiable()
    model._processor.image_processor.resample = 3
    model._processor.image_processor.do_normalize = False
    with pytest.raises(SgoolError, match=r"they differ by \d+\.\d of 255 levels"):
        model.check_differentiable()


# --- bad input ------------------------------------------------------------------------------------------------------


def test_an_image_that_the_processor_refuses(folder: Path) -> None:
    model = load_vision_language(str(folder))
    with pytest.raises(SgoolError, match=r"refuses an image of 1000x4 pixels: .*aspect ratio"):
        model.probability(image(4, 1000), QUESTION, ("Yes",))


def test_files_that_are_no_such_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match=r"The vision-language model 'owner/none' is not complete in the cache"):
        load_vision_language("owner/none")
    wrong = tmp_path / "clip"
    wrong.mkdir()
    (wrong / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(
        SgoolError, match=r"Cannot load a vision-language model from .*Expected a chat model with images"
    ):
        load_vision_language(str(wrong))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(SgoolError, match="has no chat template, so no question can be asked"):
        load_vision_language(str(copy))
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, tmp_path / "short"))
    state = load_file(copy / "model.safetensors")
    gone = next(name for name in state if name.endswith("down_proj.weight"))
    save_file({k: v for k, v in state.items() if k != gone}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(SgoolError, match=r"lacks weights of a Qwen\w+: .*down_proj.weight\. Fetch its files again"):
        load_vision_language(str(copy))
    (copy / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(SgoolError, match="is a git-lfs pointer"):
        load_vision_language(str(copy))
