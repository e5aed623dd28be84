"""HPSv3 on a tiny random Qwen2-VL, against a plain computation with transformers' parts."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, Qwen2VLForConditionalGeneration

from sgool.errors import SgoolError
from sgool.models.hps_v3 import HPSv3, load_hps_v3
from sgool.models.hps_v3_text import read_instruction
from tests.hps_v3_instruction import INSTRUCTION, prompt_with_special_token
from tests.tiny_hps_v3 import PATCH, save_hps_v3
from tests.tiny_vlm import save_vlm

Files = dict[str, str]
PROMPTS = ["a cat", "two {red} cows in a field, é"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return save_hps_v3(tmp_path_factory.mktemp("hps") / "new", older=False)


@pytest.fixture(scope="module")
def scorer(files: Files) -> HPSv3:
    return load_hps_v3(**files, dtype="float32")


def images(number: int = 2, height: int = 60, width: int = 90) -> Tensor:
    """Levels of 8 bits with noise, which a wrong interpolation changes by many levels."""
    noise = torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(0))
    return (noise * 255).round() / 255


def plain(files: Files, image: Tensor, size: tuple[int, int], prompt: str) -> list[float]:
    """The head's two outputs: Pillow's resize, the processor, embeddings given to the language model, and the head."""
    base, state = files["model"], load_file(files["checkpoint"])
    processor: Any = AutoProcessor.from_pretrained(base)
    processor.tokenizer.add_tokens(["<|Reward|>"], special_tokens=True)
    config: Any = AutoConfig.from_pretrained(base)
    config.text_config.vocab_size = len(processor.tokenizer)
    network: Any = Qwen2VLForConditionalGeneration(config).eval()
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith("rm_head.")})

    picture = Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    text = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        + INSTRUCTION.format(text_prompt=prompt)
        + prompt_with_special_token
        + "<|im_end|>\n<|im_start|>assistant\n"
    )
    seen = picture.resize(size[::-1], Image.Resampling.BICUBIC)
    inputs = processor(text=[text], images=[seen], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, size[0] // PATCH, size[1] // PATCH]]
    ids = inputs["input_ids"]
    with torch.no_grad():
        words = network.get_input_embeddings()(ids)
        looked = network.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
        looked = getattr(looked, "pooler_output", looked)  # of transformers 5
        mask = (ids == config.image_token_id)[..., None].expand_as(words)
        hidden = network.model.language_model(inputs_embeds=words.masked_scatter(mask, looked)).last_hidden_state
    (place,) = (ids[0] == len(processor.tokenizer) - 1).nonzero().flatten().tolist()
    found = hidden[0, place].double()
    for layer in (0, 3, 5):
        found = state[f"rm_head.{layer}.weight"].double() @ found + state[f"rm_head.{layer}.bias"].double()
        found = found if layer == 5 else found.clamp_min(0)
    return [float(value) for value in found]


@pytest.mark.parametrize(
    ("given", "size"), [((60, 90), (112, 160)), ((200, 144), (144, 104)), ((128, 128), (128, 128))]
)
def test_a_score_is_the_head_s_first_output_at_the_reward_token(
    files: Files, scorer: HPSv3, given: tuple[int, int], size: tuple[int, int]
) -> None:
    seen = images(2, *given)
    encoded = scorer.encode_prompts(PROMPTS)
    expected = [plain(files, image, size, prompt) for image, prompt in zip(seen, PROMPTS, strict=True)]
    assert len({round(value, 3) for pair in expected for value in pair}) == 4
    # float32 of two layers, on scores of about 1.
    assert scorer.published_scores(seen, encoded).tolist() == pytest.approx([mu for mu, _ in expected], abs=2e-5)
    # Pillow rounds to 8 bits after each of its two passes; without a resize nothing rounds.
    close = 2e-5 if given == size else 0.05
    assert scorer(seen, encoded).tolist() == pytest.approx([mu for mu, _ in expected], abs=close)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ((512, 512), (448, 448)),
        ((448, 448), (448, 448)),
        ((300, 200), (560, 392)),
        ((560, 392), (532, 364)),
        ((1024, 768), (504, 364)),
        ((60, 900), (140, 1736)),
        ((333, 517), (364, 560)),
    ],
)
def test_sizes_are_those_of_the_public_code(tmp_path: Path, given: tuple[int, int], size: tuple[int, int]) -> None:
    """With the real side of a patch. The sizes are those that the public code chose."""
    model = load_hps_v3(**save_hps_v3(tmp_path, patch=14), dtype="float32")
    assert model.input_size == 448
    assert model._size(torch.empty(1, 3, *given)) == size


def test_names_of_older_releases_are_read_too(files: Files, scorer: HPSv3, tmp_path: Path) -> None:
    older = save_hps_v3(tmp_path, older=True)
    names = (set(load_file(path["checkpoint"])) for path in (files, older))
    assert next(names) - next(names)
    other = load_hps_v3(**{**files, "checkpoint": older["checkpoint"]}, dtype="float32")
    encoded = scorer.encode_prompts(PROMPTS)
    assert other(images(), encoded).tolist() == scorer(images(), encoded).tolist()


def test_a_batch_is_its_images(scorer: HPSv3) -> None:
    encoded = scorer.encode_prompts(PROMPTS)
    assert encoded.dtype == torch.uint8 and torch.equal(encoded[1:], scorer.encode_prompts(PROMPTS[1:]))
    for score in (scorer, scorer.published_scores):
        both = score(images(), encoded).tolist()
        assert both == [float(score(images()[i : i + 1], encoded[i : i + 1])) for i in (0, 1)]
        assert both[0] != both[1]
        assert score(images(), encoded[[1, 0]]).tolist() != both


def test_nan_stays_nan(scorer: HPSv3) -> None:
    seen = images()
    expected = scorer.published_scores(seen, scorer.encode_prompts(PROMPTS))
    seen[0, 1, 2, 3] = torch.nan
    found = scorer.published_scores(seen, scorer.encode_prompts(PROMPTS))
    assert bool(found[0].isnan()) and float(found[1]) == float(expected[1])


@pytest.mark.parametrize("size", [(60, 90), (128, 128)])
def test_the_gradient_is_that_of_finite_differences(files: Files, size: tuple[int, int]) -> None:
    model = load_hps_v3(**files, dtype="float32").double()
    encoded = model.encode_prompts(PROMPTS[:1])
    seen = (images(1, *size).double() * 0.5 + 0.25).requires_grad_()
    score = model(seen, encoded)
    assert score.dtype == torch.float64
    (gradient,) = torch.autograd.grad(score.sum(), seen)
    up = gradient / gradient.norm()
    with torch.no_grad():
        high, low = (model(seen + step * up, encoded) for step in (1e-3, -1e-3))
    # Central differences along the gradient. The network's norms compute in float32: 1e-6 of a value of about 1, over
    # the step of 2e-3; wrong pixels or a wrong token would change the slope by much more.
    assert float(high - low) / 2e-3 == pytest.approx(float(gradient.norm()), rel=2e-2, abs=2e-3)
    assert float(gradient.norm()) > 0.05


def test_half_precision(files: Files, scorer: HPSv3) -> None:
    half = load_hps_v3(**files, dtype="bfloat16")
    assert half.network.dtype == torch.bfloat16 and half.head[0].weight.dtype == torch.float32
    seen = images(2, 128, 128).requires_grad_()
    encoded = scorer.encode_prompts(PROMPTS)
    scores = half(seen, encoded)
    scores.sum().backward()
    assert scores.dtype == torch.float32
    assert seen.grad is not None and bool(seen.grad.isfinite().all()) and float(seen.grad.abs().max()) > 0
    exact = scorer(seen.detach(), encoded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = scorer(seen.detach(), encoded)
    assert found.dtype == torch.float32
    # Two layers of 8 bits, on scores of about 1.
    for other in (scores.detach(), found):
        assert other.tolist() == pytest.approx(exact.tolist(), abs=0.2)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_images_and_prompts_that_cannot_be_scored(scorer: HPSv3) -> None:
    encoded = scorer.encode_prompts(["a"])
    with pytest.raises(SgoolError, match="no side is more than 200 times the other, got 1000x4 pixels"):
        scorer(images(1, 4, 1000), encoded)
    for word in ("<|Reward|>", "<|image_pad|>"):
        with pytest.raises(SgoolError, match=r"has <\|image_pad\|> or <\|Reward\|> in it, which are tokens of the mo"):
            scorer(images(1), scorer.encode_prompts([f"a {word}"]))
    with pytest.raises(SgoolError, match="expected a prompt of at most 8,192 bytes, got 9,000"):
        scorer.encode_prompts(["é" * 4500])


def changed(files: Files, folder: Path, drop: str = "none", **more: Tensor) -> Files:
    """The files with a checkpoint that lacks the tensors whose names contain ``drop`` and has ``more``."""
    state = {name: value for name, value in load_file(files["checkpoint"]).items() if drop not in name}
    save_file({**state, **more}, folder / "changed.safetensors")
    return {**files, "checkpoint": str(folder / "changed.safetensors")}


def test_checkpoints_that_do_not_fit(files: Files, tmp_path: Path) -> None:
    with pytest.raises(
        SgoolError, match=r"lacks the reward head of HPSv3: expected tensors rm_head.0.weight, .*published"
    ):
        load_hps_v3(**changed(files, tmp_path, "rm_head"))
    with pytest.raises(SgoolError, match=r"do not fit Sequential: 1 missing: 3.bias"):
        load_hps_v3(**changed(files, tmp_path, "rm_head.3.bias"))
    with pytest.raises(SgoolError, match=r"lacks weights of a Qwen2VLModel: .*layers.0.mlp.down_proj.weight"):
        load_hps_v3(**changed(files, tmp_path, "layers.0.mlp.down_proj"))
    with pytest.raises(SgoolError, match=r"has weights that .*base' does not have: language_model.layers.7.x"):
        load_hps_v3(**changed(files, tmp_path, **{"model.language_model.layers.7.x": torch.zeros(2)}))
    with pytest.raises(SgoolError, match=r"has 9 words, but the tokenizer of .*base' has \d+ with <\|Reward\|>"):
        load_hps_v3(**changed(files, tmp_path, **{"model.language_model.embed_tokens.weight": torch.zeros(9, 32)}))
    with pytest.raises(SgoolError, match=r"The weights in .*changed.safetensors do not fit the base model .*base'"):
        load_hps_v3(**changed(files, tmp_path, **{"model.language_model.norm.weight": torch.zeros(5)}))
    with pytest.raises(SgoolError, match=r"Expected a weights file at .*no.safetensors"):
        load_hps_v3(**{**files, "checkpoint": str(tmp_path / "no.safetensors")})


def test_base_models_that_do_not_fit(files: Files, tmp_path: Path) -> None:
    other = str(save_vlm(tmp_path / "other", "qwen2_5_vl"))
    with pytest.raises(SgoolError, match=r"is a model of type qwen2_5_vl. Expected Qwen2-VL in transformers' layout"):
        load_hps_v3(**{**files, "model": other})
    with pytest.raises(SgoolError, match=r"The base model 'owner/none' of HPSv3 is not complete in the cache"):
        load_hps_v3(**{**files, "model": "owner/none"})
    copy = Path(shutil.copytree(files["model"], tmp_path / "copy"))
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(SgoolError, match="has no chat template"):
        load_hps_v3(**{**files, "model": str(copy)})
    (copy / "config.json").write_text("{")
    with pytest.raises(SgoolError, match=r"Cannot read the base model of HPSv3 from .*Expected Qwen2-VL"):
        load_hps_v3(**{**files, "model": str(copy)})


# --- the instruction ------------------------------------------------------------------------------------------------


def test_the_instruction_of_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hpsv3" / "dataset"
    folder.mkdir(parents=True)
    (tmp_path / "hpsv3" / "__init__.py").write_text("raise SystemExit('imported')")
    written = f"raise SystemExit('run')\nINSTRUCTION = {INSTRUCTION!r}\nprompt_with_special_token = '<|Reward|>.'\n"
    (folder / "data_collator_qwen.py").write_text(written)
    monkeypatch.syspath_prepend(tmp_path)
    assert read_instruction(None) == INSTRUCTION + "<|Reward|>."
    assert "hpsv3" not in sys.modules
    shutil.rmtree(folder)
    with pytest.raises(SgoolError, match=r"null stands for the installed package hpsv3, which is not there. Expected"):
        read_instruction(None)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("Rate the picture.", "which is no Python"),
        ("INSTRUCTION = '{text_prompt}'", "which has no text named prompt_with_special_token"),
        ("prompt_with_special_token = 1", "which has no text named INSTRUCTION or prompt_with_special_token"),
        ("INSTRUCTION = 'x'\nprompt_with_special_token = '<|Reward|>'", "INSTRUCTION must have {text_prompt} once"),
        ("INSTRUCTION = '{text_prompt}'\nprompt_with_special_token = 'x'", "prompt_with_special_token <|Reward|> once"),
    ],
)
def test_files_without_the_instruction(written: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(written)
    with pytest.raises(SgoolError) as caught:
        read_instruction(str(tmp_path / "file.py"))
    assert message in str(caught.value)
    assert "whose variables INSTRUCTION and prompt_with_special_token are the text" in str(caught.value)
