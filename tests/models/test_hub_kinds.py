"""Pipelines of other kinds, in folders and in the hub's cache, are refused before their weights are read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline

from sgool.config.pipeline import kind_problems
from sgool.errors import SgoolError
from sgool.models.load import family_of, load_models

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Change = Callable[[Path], None]


def _json(file: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


CASES = [
    (_json("model_index.json", _class_name="KandinskyPipeline"), "is a KandinskyPipeline"),
    (_json("model_index.json", _class_name="StableDiffusionInpaintPipeline"), "is a StableDiffusionInpaintPipeline"),
    (_json("model_index.json", _class_name="StableDiffusionUpscalePipeline"), "is a StableDiffusionUpscalePipeline"),
    (_json("unet/config.json", time_cond_proj_dim=256), "`time_cond_proj_dim`), as LCM's"),
    (_json("unet/config.json", in_channels=9), "has a UNet of 9 input and 4 output channels, as for inpainting"),
    (_json("unet/config.json", addition_embed_type="text_time"), "(`addition_embed_type` text_time), as SDXL's"),
]
NAMES = ["kandinsky", "inpainting", "upscaling", "lcm-unet", "inpainting-unet", "sdxl-unet"]


def _cached(cache: Path, pipeline: Path, change: Change | None = None) -> str:
    """A hub repository in a cache, as huggingface_hub lays it out."""
    repository = cache / "models--someone--model"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(pipeline, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    if change is not None:
        change(snapshot)
    return "someone/model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, without a network."""
    from huggingface_hub import constants, file_download

    folder = tmp_path / "cache"
    folder.mkdir()
    for place in (constants, file_download.constants):
        monkeypatch.setattr(place, "HF_HUB_CACHE", str(folder))
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", True)
    return folder


@pytest.mark.parametrize(("change", "words"), CASES, ids=NAMES)
def test_a_hub_id_of_another_kind(cache: Path, pipeline_folder: Path, change: Change, words: str) -> None:
    name = _cached(cache, pipeline_folder, change)
    for weights in cache.rglob("*.safetensors"):
        weights.unlink()  # nobody may look for them
    (problem,) = kind_problems(name)
    assert words in problem and "'someone/model'" in problem
    with pytest.raises(SgoolError) as caught:
        load_models(name)
    assert str(caught.value) == problem


@pytest.mark.parametrize(("change", "words"), CASES, ids=NAMES)
def test_a_folder_of_another_kind(tmp_path: Path, pipeline_folder: Path, change: Change, words: str) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(pipeline_folder, folder)
    change(folder)
    (problem,) = kind_problems(str(folder))
    assert words in problem
    with pytest.raises(SgoolError) as caught:
        load_models(folder)
    assert str(caught.value) == problem


def test_a_pipeline_object_of_another_kind(tmp_path: Path, pipeline_folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    pipeline.unet.register_to_config(time_cond_proj_dim=256)
    with pytest.raises(SgoolError, match=r"`pipeline`: it has a UNet that is told the guidance scale"):
        family_of(pipeline)


def test_what_is_not_known_is_no_problem(cache: Path) -> None:
    assert list(kind_problems("someone/model")) == []
    assert list(kind_problems("./no/such/folder")) == []


def test_the_command_says_it_before_torch_is_imported(tmp_path: Path, pipeline_folder: Path) -> None:
    """And a pipeline of the right kind loads from the cache."""
    cache = tmp_path / "cache"
    name = _cached(cache, pipeline_folder, CASES[0][0])
    root = Path(__file__).parents[2]
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    code = (
        "import sys\nfrom sgool.run.config import load_config\nfrom sgool.errors import ConfigError\n"
        f"try: load_config(['models.path={name}', 'data.limit=0'])\nexcept ConfigError as e: print(e)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "`models.path`: 'someone/model' is a KandinskyPipeline" in done.stdout
    assert (
        "there is no model family for that; expected a pipeline of one of these families: stable_diffusion"
        in done.stdout
    )
    assert "`data.limit`" in done.stdout and done.stdout.endswith("False\n"), done.stderr
    _json("model_index.json", _class_name="StableDiffusionPipeline")(next(cache.rglob("model_index.json")).parent)
    code = f"from sgool.models.load import load_models\nprint(load_models({name!r}, device='cpu').name)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "someone/model\n", done.stderr
