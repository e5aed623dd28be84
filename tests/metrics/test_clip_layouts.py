"""One CLIP in transformers' and in open_clip's layout: our score of the one is torchmetrics' score of the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchmetrics.multimodal import CLIPScore
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from sgool.metrics import ClipScore
from sgool.models.clip import load_clip

PROMPTS = ["a red cat", "two green trees on a yellow background", "an elephant", "a blue house", "a heart"]
WIDTH, LAYERS, HEADS, SIZE, PATCH, DIM, CONTEXT = 16, 2, 2, 24, 8, 12, 77
State = dict[str, Tensor]


def pixels() -> Tensor:
    """Images at the network's size with levels of 8 bits, so that no resize and no rounding differ."""
    return torch.randint(0, 256, (5, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _model(tokenizer: Any) -> CLIPModel:
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_act": "quick_gelu",
    }
    text = {
        **shared,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**shared, "image_size": SIZE, "patch_size": PATCH}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)).eval()
        # A fresh network's norms are 1 and 0, its biases 0: in training they are not.
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.3)
    return model


def _blocks(state: State, ours: str, theirs: str) -> State:
    """A transformer's layers: attention's three matrices are one in open_clip."""
    converted: State = {}
    for index in range(LAYERS):
        old, new = f"{theirs}.encoder.layers.{index}", f"{ours}.resblocks.{index}"
        for kind in ("weight", "bias"):
            parts = [state[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            converted[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
            for a, b in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                converted[f"{new}.{a}.{kind}"] = state[f"{old}.{b}.{kind}"]
    return converted


def _to_open_clip(state: State) -> State:
    converted = {
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": state["logit_scale"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
    }
    for kind in ("weight", "bias"):
        converted[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
        converted[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        converted[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
    converted |= _blocks(state, "transformer", "text_model")
    return converted | _blocks(state, "visual.transformer", "vision_model")


@pytest.fixture(scope="module")
def tokenizer(pipeline_folder: Path) -> Any:
    return CLIPTokenizer.from_pretrained(pipeline_folder / "tokenizer", model_max_length=CONTEXT)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> CLIPModel:
    return _model(tokenizer)


@pytest.fixture(scope="module")
def ours(model: CLIPModel, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> ClipScore:
    """The model's weights in a folder in open_clip's layout, loaded as every judge is."""
    folder = tmp_path_factory.mktemp("layouts") / "tiny"
    folder.mkdir()
    tower = {"width": WIDTH, "layers": LAYERS}
    config = {
        "model_cfg": {
            "embed_dim": DIM,
            "quick_gelu": True,
            "vision_cfg": {**tower, "image_size": SIZE, "patch_size": PATCH, "head_width": WIDTH // HEADS},
            "text_cfg": {
                **tower,
                "heads": HEADS,
                "context_length": CONTEXT,
                "vocab_size": len(tokenizer),
                "hf_tokenizer_name": "local",
            },
        },
        "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {name: value.contiguous() for name, value in _to_open_clip(model.state_dict()).items()}
    save_file(state, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    return ClipScore(load_clip(str(folder)))


class _Features(torch.nn.Module):
    """transformers 5 returns an output that holds the features; torchmetrics wants them."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels: Tensor) -> Tensor:
        output = self.model.get_image_features(pixel_values=pixels)
        return getattr(output, "pooler_output", output)

    def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        output = self.model.get_text_features(input_ids=ids, attention_mask=mask)
        return getattr(output, "pooler_output", output)


def theirs(model: CLIPModel, tokenizer: Any, truncation: bool) -> CLIPScore:
    """torchmetrics' metric over the same weights, with transformers' own image processing."""
    shown = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})

    def process(images: Any = None, text: Any = None, **_: Any) -> Any:
        if images is None:
            limit = {"truncation": True, "max_length": CONTEXT} if truncation else {}
            return tokenizer(text, padding=True, return_tensors="pt", **limit)
        pil = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in images]
        return shown(images=pil, return_tensors="pt")

    return CLIPScore(lambda: (_Features(model), process))


def one_by_one(metric: CLIPScore, images: Tensor, prompts: list[str]) -> list[float]:
    """torchmetrics cuts a negative mean at 0; of one image, that is the image's score."""
    scores = []
    for image, prompt in zip(images, prompts, strict=True):
        metric.reset()
        metric.update(image, prompt)
        scores.append(float(metric.compute()))
    return scores


def test_scores_are_those_of_torchmetrics(ours: ClipScore, model: CLIPModel, tokenizer: Any) -> None:
    expected = one_by_one(theirs(model, tokenizer, truncation=False), pixels(), PROMPTS)
    got = ours.score(pixels() / 255, PROMPTS).tolist()
    # Two implementations of the same float32 network, on a scale of 100.
    assert got == pytest.approx(expected, abs=1e-3)
    assert max(expected) - min(expected) > 1  # they do tell the images apart


def test_the_mean_over_images_too(ours: ClipScore, model: CLIPModel, tokenizer: Any) -> None:
    metric = theirs(model, tokenizer, truncation=False)
    scores = one_by_one(metric, pixels(), PROMPTS)
    good = [index for index, value in enumerate(scores) if value > 0]
    assert len(good) >= 2
    metric.reset()
    ours.reset()
    for index in good:
        metric.update(pixels()[index], PROMPTS[index])
        ours.update(pixels()[index : index + 1] / 255, [PROMPTS[index]])
    assert float(ours.compute()) == pytest.approx(float(metric.compute()), abs=1e-3)


def test_over_long_prompts_keep_their_end_token(ours: ClipScore, model: CLIPModel, tokenizer: Any) -> None:
    """CLIP reads a prompt out at its end token: truncation by the tokenizer keeps it, torchmetrics' own does not."""
    long = ["a red cat to the left of a blue house " * 12, "two green trees on a yellow background " * 12]
    assert all(len(tokenizer(prompt)["input_ids"]) > CONTEXT for prompt in long)
    images = pixels()[:2]
    got = ours.score(images / 255, long).tolist()
    assert got == pytest.approx(one_by_one(theirs(model, tokenizer, truncation=True), images, long), abs=1e-3)
    assert all(ours.truncated(long)) and ours.truncated(PROMPTS) == [None] * len(PROMPTS)
    with pytest.warns(UserWarning, match="Will truncate captions"):
        theirs(model, tokenizer, truncation=False).update(list(images), long)
    features = [cut_features(model, tokenizer, prompt) for prompt in long]
    # Without an end token transformers reads out the first position, which has seen nothing: all prompts are alike.
    torch.testing.assert_close(features[0], features[1])


def cut_features(model: CLIPModel, tokenizer: Any, prompt: str) -> Tensor:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"][:, :CONTEXT]
    with torch.no_grad():
        return _Features(model).get_text_features(ids, torch.ones_like(ids))
