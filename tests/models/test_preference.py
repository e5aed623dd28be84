"""HPS and PickScore from tiny checkpoints in their public layouts, against the plain formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from sgool.errors import SgoolError
from sgool.models.clip import load_clip
from sgool.models.preference import HumanPreferenceScore, PickScore, load_pick_score
from tests.tiny import CONTEXT_LENGTH

PROMPTS = ["a red cat", "two green trees on a yellow background"]
ARCHITECTURE = "tiny-hps-for-tests"


def images(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hps_file(tmp_path: Path) -> Path:
    """A checkpoint in HPS's layout (``state_dict`` beside the epoch) for an architecture of open_clip's registry."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (tmp_path / f"{ARCHITECTURE}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{ARCHITECTURE}.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.create_model(ARCHITECTURE)
    torch.save({"epoch": 1, "name": "hps", "state_dict": network.state_dict()}, tmp_path / "HPS_v2.1_compressed.pt")
    return tmp_path / "HPS_v2.1_compressed.pt"


def test_hps_is_open_clip_s_cosine(hps_file: Path) -> None:
    scorer = HumanPreferenceScore(load_clip(ARCHITECTURE, str(hps_file)))
    network = open_clip.create_model(ARCHITECTURE).eval()
    network.load_state_dict(torch.load(hps_file, weights_only=True)["state_dict"])
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        image = network.encode_image((images(32) - mean) / std, normalize=True)
        text = network.encode_text(open_clip.get_tokenizer(ARCHITECTURE)(PROMPTS), normalize=True)
    # The same operations on the same weights.
    expected = (image @ text.T).diagonal()
    torch.testing.assert_close(scorer(images(32), scorer.encode_prompts(PROMPTS)), expected)
    assert float(expected.abs().max()) <= 1


def test_hps_says_what_it_does_not_read(hps_file: Path) -> None:
    scorer = HumanPreferenceScore(load_clip(ARCHITECTURE, str(hps_file)))
    assert scorer.truncated(["a cat", "cat " * 80]) == [None, " ".join(["cat"] * 5)]


@pytest.fixture(scope="module")
def pick_folder(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIPModel with tokenizer and image settings, as transformers saves them."""
    folder = tmp_path_factory.mktemp("pick") / "PickScore"
    tokenizer = CLIPTokenizer.from_pretrained(pipeline_folder / "tokenizer")
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shared,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**shared, "image_size": 24, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CLIPModel(config)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pick(pick_folder: Path) -> PickScore:
    return load_pick_score(str(pick_folder), str(pick_folder))


def test_pick_score_is_transformers_logit(pick_folder: Path, pick: PickScore) -> None:
    processor = CLIPImageProcessor.from_pretrained(pick_folder)
    tokenizer = CLIPTokenizer.from_pretrained(pick_folder)
    network = CLIPModel.from_pretrained(pick_folder).eval()
    # Levels of 8 bits, so that PIL and torch see the same pixels.
    pixels = (images(24) * 255).round().to(torch.uint8)
    pil = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in pixels]
    with torch.no_grad():
        output = network(
            **tokenizer(PROMPTS, padding=True, truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt"),
            **processor(images=pil, return_tensors="pt"),
        )
    # The same network on the same pixels; float32.
    expected = output.logits_per_image.diagonal()
    torch.testing.assert_close(pick(pixels / 255, pick.encode_prompts(PROMPTS)), expected, rtol=1e-4, atol=1e-4)


def test_pick_score_s_prompts_are_of_unit_length_and_cut_at_the_context(pick: PickScore) -> None:
    embeds = pick.encode_prompts(PROMPTS)
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(2))
    # One at a time or padded together: the text tower is causal, padding stands behind.
    alone = torch.cat([pick.encode_prompts([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(embeds, alone, rtol=1e-4, atol=1e-5)
    long = "a red cat to the left of a blue house and two green trees on a yellow background"
    first, cut = pick.truncated(["a red cat", long])
    assert first is None and cut and long.endswith(cut.replace("</w>", ""))
    assert torch.equal(pick.encode_prompts([long]), pick.encode_prompts([f"{long} car"]))


def test_pick_score_s_gradient(pick_folder: Path) -> None:
    scorer = load_pick_score(str(pick_folder), str(pick_folder)).double()
    prompts = F.normalize(torch.randn(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), dim=1)
    batch = images(30).double().requires_grad_()
    (gradient,) = torch.autograd.grad(scorer(batch, prompts).sum(), batch)
    probe = torch.randn(batch.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ends = [scorer(batch + sign * 1e-5 * probe, prompts).sum() for sign in (1, -1)]
    # Central difference of a smooth network: error step^2 times the third derivative.
    torch.testing.assert_close((gradient * probe).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-7)
    assert float(gradient.abs().max()) > 0 and all(p.grad is None for p in scorer.parameters())


def test_pick_score_lacks_files_or_weights(pick_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match=r"PickScore, .*nothing' with the processor"):
        load_pick_score(str(tmp_path / "nothing"), str(pick_folder))
    CLIPImageProcessor().save_pretrained(tmp_path / "half")
    with pytest.raises(SgoolError, match=r"with the processor .*half"):
        load_pick_score(str(pick_folder), str(tmp_path / "half"))
    from safetensors.torch import load_file, save_file

    network = CLIPModel.from_pretrained(pick_folder)
    network.save_pretrained(tmp_path / "holes")
    state = load_file(tmp_path / "holes" / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "holes" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SgoolError, match=r"lacks weights of a CLIPModel: visual_projection.weight"):
        load_pick_score(str(tmp_path / "holes"), str(pick_folder))
