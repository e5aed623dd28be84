from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models import clip_sources
from sgool.models.clip import ClipTower, load_clip
from sgool.models.fingerprint import fingerprint

LONG = "a red cat to the left of a blue house and two green trees on a yellow background beside three butterflies"


def smooth_image(height: int, width: int) -> Image.Image:
    """Smooth, so that PIL's 8-bit bicubic and torch's agree, and different in all places."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin(x / 9 + i) * np.cos(y / 7 - i) * 0.4 + 0.5 for i in range(3)]
    return Image.fromarray((np.stack(planes, -1) * 255).astype(np.uint8))


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(params=["clip_folder", "wordpiece_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def tower(folder: Path) -> ClipTower:
    return load_clip(str(folder))


def test_text_is_what_open_clip_computes(folder: Path, tower: ClipTower) -> None:
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red cat", "an elephant"])
    expected = model.encode_text(tokens, normalize=True)
    got = tower.encode_text(["a red cat", "an elephant"])
    torch.testing.assert_close(got, expected)  # same operations on the same weights: default float32 tolerance
    torch.testing.assert_close(got.norm(dim=-1), torch.ones(2))
    assert not got.requires_grad


@pytest.mark.parametrize("size", [(32, 32), (24, 24), (64, 64), (48, 80), (80, 48), (20, 20)])
def test_images_are_preprocessed_as_open_clip_does_for_pil(
    folder: Path, tower: ClipTower, size: tuple[int, int]
) -> None:
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    image = smooth_image(*size)
    expected = model.eval().encode_image(preprocess(image)[None], normalize=True)
    # PIL rounds to 8 bits after each of its two passes: half a level in 255, through a network of slope about 1.
    torch.testing.assert_close(tower.encode_image(as_tensor(image)), expected, atol=5e-3, rtol=0)


def test_longest_side_is_padded_as_open_clip_does(wordpiece_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wordpiece_folder, tmp_path / "longest"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= {"resize_mode": "longest", "fill_color": 128}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    image = smooth_image(40, 64)
    expected = model.eval().encode_image(preprocess(image)[None], normalize=True)
    torch.testing.assert_close(load_clip(str(folder)).encode_image(as_tensor(image)), expected, atol=5e-3, rtol=0)


def test_own_mean_and_std(clip_tower: ClipTower, wordpiece_tower: ClipTower) -> None:
    assert clip_tower.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert clip_tower.std.flatten().tolist() == pytest.approx([0.26862954, 0.26130258, 0.27577711])
    assert wordpiece_tower.mean.flatten().tolist() == wordpiece_tower.std.flatten().tolist() == [0.5] * 3
    assert (clip_tower.input_size, wordpiece_tower.input_size) == (32, 24)
    assert clip_tower.context_length == 16


def smooth(module: torch.nn.Module) -> None:
    """Puts GELU in ReLU's place: a kink within the step of a finite difference would say nothing about our code."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.ReLU):
            setattr(module, name, torch.nn.GELU())
        smooth(child)


def test_image_gradient_matches_finite_differences(folder: Path) -> None:
    tower = load_clip(str(folder), dtype=torch.float64)
    smooth(tower)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 40, 40, dtype=torch.float64, generator=generator).requires_grad_()
    direction = torch.randn(images.shape, dtype=torch.float64, generator=generator)
    features = tower.encode_image(images)
    assert features.dtype == torch.float64
    probe = torch.randn(features.shape, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad((features * probe).sum(), images)
    step = 1e-6
    with torch.no_grad():
        plus, minus = (tower.encode_image(images + sign * step * direction) for sign in (1, -1))
        numeric = ((plus - minus) * probe).sum() / (2 * step)
    # Rounding: 1e-16 / step = 1e-10; truncation: step^2 times a third derivative; the derivative is about 1e-3.
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-5, atol=1e-8)
    assert float(gradient.abs().max()) > 1e-6
    assert all(not p.requires_grad and p.grad is None for p in tower.parameters())


def test_stays_in_evaluation_mode_so_that_images_are_independent(clip_folder: Path) -> None:
    tower = load_clip(str(clip_folder)).train()
    assert not any(module.training for module in tower.modules())
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    together = tower.encode_image(images)
    alone = torch.cat([tower.encode_image(image[None]) for image in images])
    torch.testing.assert_close(together, alone)  # float32 rounding of differently blocked products


def test_half_precision_weights_give_float32_embeddings(folder: Path) -> None:
    full, half = load_clip(str(folder)), load_clip(str(folder), dtype=torch.bfloat16)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    assert half.dtype == torch.bfloat16 and half.encode_image(image).dtype == torch.float32
    # bfloat16 keeps 8 bits: 0.4 % an operation.
    torch.testing.assert_close(half.encode_image(image), full.encode_image(image), atol=0.1, rtol=0)
    torch.testing.assert_close(half.encode_text(["a cat"]), full.encode_text(["a cat"]), atol=0.1, rtol=0)
    assert half.fingerprint == full.fingerprint


def test_relative_paths_and_prefixes(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip_folder.parent)
    reference = load_clip(str(clip_folder))
    for name in (
        "tiny-clip",
        "./tiny-clip",
        "local-dir:tiny-clip",
        "local-dir:./tiny-clip",
        f"local-dir:{clip_folder}",
    ):
        tower = load_clip(name)
        assert (tower.name, tower.fingerprint) == ("tiny-clip", reference.fingerprint)
        assert torch.equal(tower.encode_text(["two trees"]), reference.encode_text(["two trees"]))


def test_folders_never_touch_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"network access: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_clip(str(folder)).encode_text(["a cat"]).shape[0] == 1


def test_embedded_names_resolve_to_assets(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(clip_folder, tmp_path / "emoji_world" / "guide")
    monkeypatch.setattr(clip_sources, "ASSETS", tmp_path)
    assert load_clip("emoji_world/guide").name == "emoji_world/guide"
    with pytest.raises(SgoolError, match=r"no embedded CLIP 'emoji_world/jury'; .* has: emoji_world/guide"):
        load_clip("emoji_world/jury")


def test_a_folder_of_ones_own_wins_over_an_embedded_name(
    clip_folder: Path, wordpiece_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(wordpiece_folder, tmp_path / "assets" / "emoji_world" / "guide")
    shutil.copytree(clip_folder, tmp_path / "here" / "emoji_world" / "guide")
    monkeypatch.setattr(clip_sources, "ASSETS", tmp_path / "assets")
    monkeypatch.chdir(tmp_path / "here")
    assert load_clip("emoji_world/guide").input_size == 32


def test_fingerprint_follows_weights_alone(clip_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clip_folder, tmp_path / "other-name"))
    tower = load_clip(str(copy))
    assert tower.fingerprint == load_clip(str(clip_folder)).fingerprint
    assert len(tower.fingerprint) == 16
    with torch.no_grad():
        tower.model.text_projection += 1e-4
    assert fingerprint(tower.model) != tower.fingerprint


def test_truncated_says_what_is_cut(folder: Path, tower: ClipTower) -> None:
    short, long, empty = tower.truncated(["a red cat", LONG, ""])
    assert short is None and empty is None
    assert long is not None and LONG.endswith(long)
    # What is not cut gives the same embedding, and anything may follow it.
    seen = LONG[: len(LONG) - len(long)]
    assert torch.equal(tower.encode_text([LONG]), tower.encode_text([seen + "elephant"]))
    assert not torch.equal(tower.encode_text([LONG]), tower.encode_text([seen.rsplit(maxsplit=1)[0]]))
    assert tower.truncated([seen]) == [None]


def test_truncated_with_open_clips_own_tokenizer(clip_tower: ClipTower) -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=8)
    tower = ClipTower(clip_tower.model, tokenizer, name="own")
    assert tower.truncated(["one two three four five six", "one two three four five six seven eight"]) == [
        None,
        "seven eight",
    ]


def test_encode_text_wants_a_sequence(clip_tower: ClipTower) -> None:
    with pytest.raises(ValueError, match="non-empty sequence of strings, got 'a cat'"):
        clip_tower.encode_text("a cat")
    with pytest.raises(ValueError, match=r"got \[\]"):
        clip_tower.encode_text([])


def test_encode_image_wants_colour_batches(clip_tower: ClipTower) -> None:
    for shape in ((3, 32, 32), (1, 1, 32, 32), (0, 3, 32, 32)):
        with pytest.raises(ValueError, match=rf"\(N, 3, h, w\), N >= 1, got \({shape[0]}, {shape[1]}, {shape[2]}"):
            clip_tower.encode_image(torch.zeros(shape))


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("./nowhere", None, "Expected a CLIP folder at nowhere, but there is none"),
        ("local-dir:nowhere", None, "Expected a CLIP folder at nowhere"),
        ("ViT-B-33", "openai", "Unknown CLIP 'ViT-B-33'.*Close names: .*ViT-B-32"),
        ("ViT-B-32", None, "needs pretrained weights; without them it would be random. Tags: .*laion2b_s34b_b79k"),
        ("ViT-B-32", "laion9b", "'laion9b' is neither a checkpoint file nor a pretrained tag of CLIP 'ViT-B-32'"),
        ("ViT-B-32", "openai", "QuickGELU.*Use 'ViT-B-32-quickgelu'"),
        ("ViT-B/32", "openai", "QuickGELU.*Use 'ViT-B-32-quickgelu'"),
    ],
)
def test_wrong_names(model: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(SgoolError, match=message):
        load_clip(model, pretrained)


def test_right_names_are_accepted_without_loading(tmp_path: Path) -> None:
    source = clip_sources.resolve_clip("ViT-B/32", "laion2b_s34b_b79k")
    assert (source.model, source.pretrained, source.name) == (
        "ViT-B-32",
        "laion2b_s34b_b79k",
        "ViT-B-32/laion2b_s34b_b79k",
    )
    assert clip_sources.resolve_clip("ViT-B-32-quickgelu", "openai").pretrained == "openai"
    assert clip_sources.resolve_clip("hf-hub:owner/model").name == "owner/model"
    torch.save({}, tmp_path / "mine.pt")
    assert clip_sources.resolve_clip("ViT-B-32", str(tmp_path / "mine.pt")).name == "ViT-B-32/mine"


def break_config(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text("{")


def drop_model_cfg(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text("[]")


def edit(section: str, key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "open_clip_config.json"
        config = json.loads(path.read_text())
        model = config["model_cfg"]
        (model[section] if section else model)[key] = value
        path.write_text(json.dumps(config))

    return damage


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def test_a_tokenizer_without_its_vocabulary(clip_folder: Path, tmp_path: Path) -> None:
    """transformers makes one that gives all texts the same tokens, so that every prompt would score the same.

    Release 4 refuses some of them itself.
    """
    broken = shutil.copytree(clip_folder, tmp_path / "broken")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (broken / name).unlink(missing_ok=True)
    refused = r"the CLIP 'broken'(: expected a tokenizer with its vocabulary| .*A folder must hold the tokenizer's)"
    with pytest.raises(SgoolError, match=refused):
        load_clip(str(broken))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "open_clip_config.json").unlink(), "expected open_clip_config.json in it"),
        (break_config, "open_clip_config.json as JSON"),
        (drop_model_cfg, "must hold an object 'model_cfg'"),
        (lambda folder: (folder / "open_clip_model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "open_clip_model.safetensors").write_bytes(b"12"), "is no safetensors file"),
        (edit("text_cfg", "width", 32), "Cannot load the CLIP .*pos_embed width changed"),
        (edit("", "embed_dim", 8), "Cannot load the CLIP .*size mismatch"),
        (edit("text_cfg", "hf_model_name", "roberta-base"), "text tower 'roberta-base' would be fetched from the hub"),
        (no_tokenizer, "Cannot load the tokenizer"),
        (edit("vision_cfg", "image_size", [24, 32]), "takes 24x32 images; expected a model with a square input"),
    ],
)
def test_damaged_folders(wordpiece_folder: Path, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = Path(shutil.copytree(wordpiece_folder, tmp_path / "damaged"))
    damage(folder)
    with pytest.raises(SgoolError, match=message):
        load_clip(str(folder))
