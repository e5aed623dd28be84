"""Files of weights that are cut short, git-lfs pointers or web pages: found in every place, before anything loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sgool.config.paths import ASSETS
from sgool.config.weights import file_problem, folder_files
from sgool.errors import ConfigError, SgoolError
from sgool.metrics.reader import SceneReader
from sgool.models.clip import load_clip
from sgool.models.load import load_models
from sgool.models.preference import load_pick_score
from sgool.run.config import load_config

WORLD = ASSETS / "emoji_world"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 3438354725\n"


def cut(path: Path) -> str:
    """Cuts a file to its first half; returns what a message about it must say."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    if path.suffix == ".safetensors":
        return f"{path} is cut short: expected {len(whole):,} bytes, got {len(whole) // 2:,}. Fetch the file again."
    return f"{path} is cut short: expected a PyTorch archive with its end, got the first {len(whole) // 2:,} bytes"


def point(path: Path) -> str:
    """Puts a pointer of git-lfs in a file's place."""
    path.write_bytes(POINTER)
    return f"{path} is a git-lfs pointer, not weights: expected 3,438,354,725 bytes, got a note of {len(POINTER)} bytes"


DAMAGES = [cut, point]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".pth"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_from_a_sound_one(tmp_path: Path, suffix: str, damage: Callable[[Path], str]) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {"a": torch.ones(100, 10), "b": torch.zeros(3)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    assert file_problem(path) is None
    words = damage(path)
    assert words in str(file_problem(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty: expected weights, got 0 bytes"),
        (b"<!DOCTYPE html><html>", "is a web page, not weights"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}", "its header cannot be read"),
        (b"PK\x03\x04....", "is no safetensors file"),
        (b"\xff\xff\x00\x00\x00\x00\x00\x00{", "is cut short: expected more than 65,543 bytes, got 9"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}more", "is longer than its header says: expected 10 bytes, got 14"),
    ],
)
def test_other_contents_of_a_safetensors_file(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    assert words in str(file_problem(tmp_path / "a.safetensors"))


def test_the_embedded_weights_are_sound() -> None:
    files = sorted(ASSETS.rglob("*.safetensors"))
    assert files and [file_problem(file) for file in files] == [None] * len(files)


def test_files_that_no_library_reads_do_not_matter(tmp_path: Path) -> None:
    """A clone that fetched only the files it needs has pointers beside them."""
    pipeline = tmp_path / "pipeline"
    shutil.copytree(WORLD, pipeline)
    for other in ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin"):
        (pipeline / other).write_bytes(POINTER)
    assert [file_problem(file) for file in folder_files(pipeline)] == [None] * len(folder_files(pipeline))
    assert load_config([f"models.path='{pipeline}'"]).models.path == str(pipeline)


def test_the_parts_of_sharded_weights_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for name, shard in shards.items():
        save_file({name: torch.ones(800)}, tmp_path / shard)
    words = cut(tmp_path / shards["b"])
    assert [words for file in folder_files(tmp_path) if file_problem(file)] == [words]
    assert words in str(file_problem(folder_files(tmp_path)[1]))


#: What a configuration names -> the file in it that is damaged, and the overrides that name it.
PLACES: dict[str, tuple[str, str, list[str]]] = {
    "pipeline, unet": (".", "unet/diffusion_pytorch_model.safetensors", ["models.path=PLACE"]),
    "pipeline, vae": (".", "vae/diffusion_pytorch_model.safetensors", ["models.path=PLACE"]),
    "pipeline, text encoder": (".", "text_encoder/model.safetensors", ["models.path=PLACE"]),
    "guide": ("guide", "open_clip_model.safetensors", ["models.guide=PLACE"]),
    "judge": ("judge", "open_clip_model.safetensors", ["models.judges.judge=PLACE"]),
    "CLIP of a term": (
        "guide",
        "open_clip_model.safetensors",
        ["objective.terms.text_alignment.clip={model: PLACE, pretrained: null}"],
    ),
    "scene reader": ("reader", "model.safetensors", ["models.scene_reader=PLACE"]),
    "classifier": (
        "classifier",
        "model.safetensors",
        [
            "objective=classifier",
            "objective.terms.classifier.source=local",
            "objective.terms.classifier.model=null",
            "objective.terms.classifier.checkpoint=PLACE",
            "objective.terms.classifier.target=0",
        ],
    ),
    "aesthetic head": (
        "aesthetic",
        "guide.safetensors",
        [
            "objective=aesthetic",
            "objective.terms.aesthetic.clip=emoji_world/guide",
            "objective.terms.aesthetic.checkpoint=PLACE/guide.safetensors",
        ],
    ),
    "TranSalNet": (
        "saliency",
        "transalnet.safetensors",
        ["saliency=transalnet_emoji", "saliency.detector.weights=PLACE/transalnet.safetensors", "methods=[sgool]"],
    ),
}


def damaged(tmp_path: Path, place: str, damage: Callable[[Path], str]) -> tuple[Path, list[str], str]:
    folder, file, overrides = PLACES[place]
    copy = tmp_path / "copy"
    shutil.copytree(WORLD / folder, copy, ignore=None if folder != "." else shutil.ignore_patterns("guide", "judge"))
    return copy, [line.replace("PLACE", str(copy)) for line in overrides], damage(copy / file)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("place", PLACES)
def test_the_configuration_is_refused(tmp_path: Path, place: str, damage: Callable[[Path], str]) -> None:
    _, overrides, words = damaged(tmp_path, place, damage)
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    assert words in str(caught.value)


def test_it_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    _, overrides, _ = damaged(tmp_path, "guide", cut)
    code = (
        "import sys\nfrom sgool.errors import ConfigError\nfrom sgool.run.config import load_config\n"
        f"try: load_config({overrides!r})\nexcept ConfigError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


LOADERS: dict[str, Callable[[Path], Any]] = {
    "pipeline, unet": load_models,
    "pipeline, text encoder": load_models,
    "guide": lambda path: load_clip(str(path)),
    "scene reader": SceneReader.from_pretrained,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("place", LOADERS)
def test_the_loaders_refuse_it_too(tmp_path: Path, place: str, damage: Callable[[Path], str]) -> None:
    copy, _, words = damaged(tmp_path, place, damage)
    with pytest.raises(SgoolError) as caught:
        LOADERS[place](copy)
    assert words in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_in_transformers_layout(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.ones(100)}, tmp_path / "model.safetensors")
    words = damage(tmp_path / "model.safetensors")
    with pytest.raises(SgoolError) as caught:
        load_pick_score(str(tmp_path), str(tmp_path))
    assert words in str(caught.value)


def test_a_pointer_in_the_place_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(POINTER)
    with pytest.raises(ConfigError, match=r"a.png is a git-lfs pointer"):
        load_config(["objective=image_alignment", f"objective.terms.image_alignment.images=['{tmp_path / 'a.png'}']"])
