"""ImageReward from a tiny checkpoint in the public layout, against BLIP written out in plain operations."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertTokenizerFast

from sgool.errors import SgoolError
from sgool.models.image_reward import ImageReward, load_image_reward

State = dict[str, Tensor]
#: Widths of the image and the text network; two layers each.
VISION, TEXT, LAYERS, HEADS = 128, 16, 2, 2
PROMPTS = ["a red cat", "two green trees"]


def _linear(state: State, name: str, inputs: int, outputs: int) -> None:
    state[f"{name}.weight"] = torch.empty(outputs, inputs)
    state[f"{name}.bias"] = torch.empty(outputs)


def _norm(state: State, name: str, width: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.empty(width), torch.empty(width)


def _attention(state: State, name: str, inputs: int) -> None:
    _linear(state, f"{name}.self.query", TEXT, TEXT)
    _linear(state, f"{name}.self.key", inputs, TEXT)
    _linear(state, f"{name}.self.value", inputs, TEXT)
    _linear(state, f"{name}.output.dense", TEXT, TEXT)
    _norm(state, f"{name}.output.LayerNorm", TEXT)


def public_state(words: int) -> State:
    """Names and shapes as in ImageReward.pt, written down by hand; random values."""
    state: State = {}
    vision, text = "blip.visual_encoder", "blip.text_encoder"
    state[f"{vision}.cls_token"] = torch.empty(1, 1, VISION)
    state[f"{vision}.pos_embed"] = torch.empty(1, 5, VISION)
    state[f"{vision}.patch_embed.proj.weight"] = torch.empty(VISION, 3, 8, 8)
    state[f"{vision}.patch_embed.proj.bias"] = torch.empty(VISION)
    for i in range(LAYERS):
        block = f"{vision}.blocks.{i}"
        for name, sizes in {"attn.qkv": (VISION, 3 * VISION), "attn.proj": (VISION, VISION)}.items():
            _linear(state, f"{block}.{name}", *sizes)
        _linear(state, f"{block}.mlp.fc1", VISION, 2 * VISION)
        _linear(state, f"{block}.mlp.fc2", 2 * VISION, VISION)
        _norm(state, f"{block}.norm1", VISION)
        _norm(state, f"{block}.norm2", VISION)
    _norm(state, f"{vision}.norm", VISION)
    state[f"{text}.embeddings.word_embeddings.weight"] = torch.empty(words, TEXT)
    state[f"{text}.embeddings.position_embeddings.weight"] = torch.empty(64, TEXT)
    _norm(state, f"{text}.embeddings.LayerNorm", TEXT)
    for i in range(LAYERS):
        layer = f"{text}.encoder.layer.{i}"
        _attention(state, f"{layer}.attention", TEXT)
        _attention(state, f"{layer}.crossattention", VISION)
        _linear(state, f"{layer}.intermediate.dense", TEXT, 2 * TEXT)
        _linear(state, f"{layer}.output.dense", 2 * TEXT, TEXT)
        _norm(state, f"{layer}.output.LayerNorm", TEXT)
    for index, inputs, outputs in ((0, TEXT, 12), (2, 12, 10), (4, 10, 8), (6, 8, 4), (7, 4, 1)):
        _linear(state, f"mlp.layers.{index}", inputs, outputs)
    for name, inputs in (("vision_proj", VISION), ("text_proj", TEXT)):
        _linear(state, f"blip.{name}", inputs, 4)
    generator = torch.Generator().manual_seed(0)
    for name, value in state.items():
        scale = 0.5 / math.sqrt(value.shape[-1]) if value.ndim > 1 and "embed" not in name else 0.5
        value.copy_(torch.randn(value.shape, generator=generator) * scale)
    state[f"{text}.embeddings.position_ids"] = torch.arange(64)[None]
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageReward.pt, med_config.json and a tokenizer of BERT's kind."""
    folder = tmp_path_factory.mktemp("image_reward")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "two", "green", "trees", "elephant"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), vocab_file=str(folder / "vocab.txt")).save_pretrained(
        folder / "tokenizer"
    )
    torch.save(public_state(len(words) + 2), folder / "ImageReward.pt")  # two more rows, for [DEC] and [ENC]
    config = {
        "architectures": ["BertModel"],
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "hidden_size": TEXT,
        "intermediate_size": 2 * TEXT,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "encoder_width": 768,
        "add_cross_attention": True,
    }
    (folder / "med_config.json").write_text(json.dumps(config))
    return folder


def load(folder: Path) -> ImageReward:
    return load_image_reward(
        str(folder / "ImageReward.pt"), str(folder / "med_config.json"), str(folder / "tokenizer")
    ).double()


def images(size: int = 16) -> Tensor:
    return torch.rand(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    parts = [tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value)]
    scores = parts[0] @ parts[1].transpose(-1, -2) / math.sqrt(parts[0].shape[-1])
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None] == 0, -math.inf)
    return (scores.softmax(dim=-1) @ parts[2]).transpose(1, 2).flatten(2)


class Reference:
    """BLIP and the reward, one operation after the other."""

    def __init__(self, state: State) -> None:
        self.state = {name: value.double() for name, value in state.items() if value.is_floating_point()}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def vision(self, pixels: Tensor) -> Tensor:
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64).view(1, 3, 1, 1)
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64).view(1, 3, 1, 1)
        root = "blip.visual_encoder"
        patch = self.state[f"{root}.patch_embed.proj.weight"], self.state[f"{root}.patch_embed.proj.bias"]
        x = F.conv2d((pixels - mean) / std, *patch, stride=8).flatten(2).transpose(1, 2)
        x = torch.cat([self.state[f"{root}.cls_token"].expand(len(x), -1, -1), x], dim=1)
        x = x + self.state[f"{root}.pos_embed"]
        for i in range(LAYERS):
            block = f"{root}.blocks.{i}"
            q, k, v = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6)).chunk(3, dim=-1)
            x = x + self.linear(f"{block}.attn.proj", _attend(q, k, v, VISION // 64))
            hidden = F.gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6)))
            x = x + self.linear(f"{block}.mlp.fc2", hidden)
        return self.norm(f"{root}.norm", x, 1e-6)

    def attention(self, name: str, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        parts = [self.linear(f"{name}.self.{part}", source) for part, source in
                 (("query", x), ("key", other), ("value", other))]  # fmt: skip
        out = self.linear(f"{name}.output.dense", _attend(*parts, HEADS, mask))
        return self.norm(f"{name}.output.LayerNorm", out + x, 1e-12)

    def reward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        seen, root = self.vision(pixels), "blip.text_encoder"
        x = self.state[f"{root}.embeddings.word_embeddings.weight"][ids]
        x = x + self.state[f"{root}.embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self.norm(f"{root}.embeddings.LayerNorm", x, 1e-12)
        for i in range(LAYERS):
            layer = f"{root}.encoder.layer.{i}"
            x = self.attention(f"{layer}.attention", x, x, mask)
            x = self.attention(f"{layer}.crossattention", x, seen, None)
            hidden = F.gelu(self.linear(f"{layer}.intermediate.dense", x))
            x = self.norm(f"{layer}.output.LayerNorm", self.linear(f"{layer}.output.dense", hidden) + x, 1e-12)
        score = x[:, 0]
        for index in (0, 2, 4, 6, 7):
            score = self.linear(f"mlp.layers.{index}", score)
        return (score[:, 0] - 0.16717362830052426) / 1.0333394966054072


def test_reward_is_blip_written_out(folder: Path) -> None:
    network = load(folder)
    rows = network.encode_prompts(PROMPTS)
    ids, mask = rows[:, :35], rows[:, 35:]
    assert rows.shape == (2, 70) and mask.sum(dim=1).tolist() == [5, 5]
    expected = Reference(torch.load(folder / "ImageReward.pt", weights_only=True)).reward(images(), ids, mask)
    # float64 in another order of sums.
    torch.testing.assert_close(network(images(), rows), expected, rtol=1e-9, atol=1e-9)


def test_the_reward_depends_on_the_words_and_on_the_image(folder: Path) -> None:
    """Both would be lost with a causal mask, or with cross attention left out."""
    network = load(folder)
    same = images()[:1].expand(2, -1, -1, -1)
    by_words = network(same, network.encode_prompts(["a red cat", "a red elephant"]))
    by_image = network(images(), network.encode_prompts(["a red cat"] * 2))
    # float64: what is lost would differ by rounding, 1e-15.
    assert abs(float(by_words[0] - by_words[1])) > 1e-8 and abs(float(by_image[0] - by_image[1])) > 1e-8


def test_gradient_matches_finite_differences_through_the_resize(folder: Path) -> None:
    network = load(folder)
    rows = network.encode_prompts(PROMPTS)
    batch = images(24).requires_grad_()
    (gradient,) = torch.autograd.grad(network(batch, rows).sum(), batch)
    probe = torch.randn(batch.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ends = [network(batch + sign * 1e-5 * probe, rows).sum() for sign in (1, -1)]
    # Central difference of a smooth network: error step^2 times the third derivative, rounding 1e-16 / 1e-5.
    torch.testing.assert_close((gradient * probe).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-9)
    assert float(gradient.abs().max()) > 0 and all(p.grad is None for p in network.parameters())


def test_prompts_beyond_35_tokens(folder: Path) -> None:
    network = load(folder)
    long = "cat " * 33 + "elephant"
    assert network.truncated(["a red cat", long]) == [None, "elephant"]
    assert torch.equal(network.encode_prompts([long]), network.encode_prompts(["cat " * 33]))


def _broken(folder: Path, tmp_path: Path, change: object) -> str:
    state = torch.load(folder / "ImageReward.pt", weights_only=True)
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "broken.pt")
    return str(tmp_path / "broken.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("blip.text_encoder.encoder.layer.1.crossattention.self.key.bias"),
            "1 missing: encoder.layer.1",
        ),
        (lambda s: s.pop("blip.visual_encoder.norm.bias"), "do not fit VisionTransformer: 1 missing: norm.bias"),
        (lambda s: s.update({"mlp.layers.9.weight": torch.ones(1)}), "1 unexpected: layers.9.weight"),
        (lambda s: s.update({"visual.conv1.weight": torch.ones(1)}), "is no ImageReward checkpoint: .*visual.conv1"),
        (lambda s: s.pop("blip.visual_encoder.pos_embed"), "expected pos_embed among its tensors"),
    ],
)
def test_other_layouts(folder: Path, tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(SgoolError, match=message):
        load_image_reward(_broken(folder, tmp_path, change), str(folder / "med_config.json"), str(folder / "tokenizer"))


def test_no_tokenizer_and_no_config(folder: Path, tmp_path: Path) -> None:
    checkpoint = str(folder / "ImageReward.pt")
    with pytest.raises(SgoolError, match="Cannot load the tokenizer"):
        load_image_reward(checkpoint, str(folder / "med_config.json"), str(tmp_path))
    (tmp_path / "med.json").write_text("{}")
    with pytest.raises(SgoolError, match="lacks num_attention_heads"):
        load_image_reward(checkpoint, str(tmp_path / "med.json"), str(folder / "tokenizer"))
    with pytest.raises(SgoolError, match="do not fit BlipTextModel"):
        load_image_reward(checkpoint, None, str(folder / "tokenizer"))  # the public sizes, for a tiny file
