"""What is wrong with how a model is loaded is said before anything loads, all of it at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import zeros

from sgool.errors import ConfigError
from sgool.results.compare import changed_keys
from sgool.run.config import load_config, to_plain
from sgool.run.notes import note_on_variant
from tests.tiny_families import tiny_family


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL."""
    path = tmp_path_factory.mktemp("sdxl") / "model"
    tiny_family("sdxl").save_pretrained(path)
    return path


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(list(overrides))
    return caught.value.problems


def test_all_that_is_missing_is_said_at_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgool.config.loading.find_spec", lambda name: None)
    found = problems(
        f"models.path='{folder}'",
        f"models.components={{vae: '{tmp_path}/vae', unet: '{tmp_path}/unet.safetensors', transformer: a/b}}",
        f"models.loras=['{tmp_path}/lora.safetensors', someone/lora]",
        "models.config=a/b",
    )
    for words in (
        f"`models.components.vae`: there is no file or folder '{tmp_path}/vae' (relative paths start at",
        f"`models.components.unet`: there is no file or folder '{tmp_path}/unet.safetensors'",
        f"`models.loras`: there is no file or folder '{tmp_path}/lora.safetensors'",
        "`models.components`: expected parts that the pipeline has (",
        "`models.config`: expected null with a pipeline's folder or hub id, which has its own configuration, got 'a/b'",
        "`models.loras` needs the package peft, which is not installed: pip install 'sgool[lora]'",
    ):
        assert [problem for problem in found if problem.startswith(words)], (words, found)
    assert len(found) == 6


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("models.variant='fp 16'", "`models.variant`: expected a word that stands in the names of files, such as fp16"),
        ("models.components={vae: 3}", "`models.components.vae.path`: expected a text that is not empty, got 3"),
        (
            "models.components={vae: {path: a/b, folder: c}}",
            "unknown key `models.components.vae.folder`; did you mean `models.components.vae.subfolder`?",
        ),
        ("models.scheduler={class: 7}", "`models.scheduler.class`: expected the name of a scheduler's class in"),
        ("models.loras={path: a/b}", "`models.loras`: expected a list of mappings with path and weight, or null"),
        ("models.loras=[{path: a/b, weight: x}]", "`models.loras[0].weight`: expected a number, got 'x'"),
        ("models.quantization={backend: quanto}", "`models.quantization.backend`: expected bitsandbytes or torchao"),
        ("models.quantization={backend: torchao}", "`models.quantization.weights`: is missing"),
    ],
)
def test_values_that_follow_no_rule(override: str, words: str) -> None:
    (problem,) = problems(override)
    assert problem.startswith(words)


def test_a_single_file_and_its_configuration(folder: Path, tmp_path: Path) -> None:
    save_file({"a": zeros(2)}, tmp_path / "model.safetensors")
    own = [f"models.path='{tmp_path}/model.safetensors'", f"models.config='{folder}'"]
    assert load_config(own).models.config == str(folder)
    (problem,) = problems(*own, "models.height=15", "models.width=16")
    assert "`models.height`: expected a multiple of 2 pixels" in problem
    (problem,) = problems(f"models.path='{tmp_path}/none.ckpt'")
    assert problem.startswith(f"`models.path`: there is no file '{tmp_path}/none.ckpt'")
    (tmp_path / "notes.txt").touch()
    (problem,) = problems(f"models.path='{tmp_path}/notes.txt'")
    assert "expected a pipeline's folder, a hub id or a file of weights (.safetensors, .ckpt), got the file" in problem


def test_parts_of_another_model(folder: Path, tmp_path: Path) -> None:
    AutoencoderTiny(latent_channels=16).save_pretrained(tmp_path / "vae")
    tiny_family("sdxl").unet.save_pretrained(tmp_path / "unet")
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    found = problems(f"models.path='{folder}'", f"models.components={{vae: '{tmp_path}/vae', unet: '{tmp_path}/unet'}}")
    assert any(
        problem.startswith("`models.components.vae`: expected 4 channels of latents, as the pipeline's own has, got 16")
        for problem in found
    )
    assert any("`models.components.unet`: expected 4 input channels" in problem for problem in found)
    assert len(found) == 2


def test_sizes_are_those_of_the_autoencoder_that_is_taken(folder: Path, tmp_path: Path) -> None:
    AutoencoderTiny().save_pretrained(tmp_path / "vae")  # of factor 8; the pipeline's own has 2
    own = [f"models.path='{folder}'", "models.height=20", "models.width=20"]
    load_config(own)
    (problem, _) = problems(*own, f"models.components={{vae: '{tmp_path}/vae'}}")
    assert problem == "`models.height`: expected a multiple of 8 pixels (VAE factor 8), got 20; 16 would do"


def test_another_scheduler_that_clips_is_refused_before_weights_load(folder: Path) -> None:
    own = [f"models.path='{folder}'", "sampler=native", "sampler.num_inference_steps=1"]
    (problem,) = problems(*own, "models.scheduler={class: DDPMScheduler, clip_sample: true}")
    assert "native needs a scheduler whose steps are linear, got DDPMScheduler with clip_sample" in problem
    assert "switch it off ('models.scheduler={clip_sample: false}'), or use sampler=ddim" in problem
    load_config([*own, "models.scheduler={class: DDPMScheduler, clip_sample: false}"])


def test_a_tokenizer_that_needs_sentencepiece(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgool.config.loading.find_spec", lambda name: None)
    other = shutil.copytree(folder, tmp_path / "model")
    (other / "tokenizer_2" / "spiece.model").touch()
    (other / "tokenizer_2" / "tokenizer.json").touch()  # transformers 4 saves none for this class
    load_config([f"models.path='{other}'"])  # tokenizer.json is read in its place
    (other / "tokenizer_2" / "tokenizer.json").unlink()
    (problem,) = problems(f"models.path='{other}'")
    assert problem == (
        f"`models.path`: {other}/tokenizer_2 needs the package sentencepiece, which is not installed: pip install "
        "'sgool[sentencepiece]'"
    )


def test_a_run_is_not_continued_with_another_model(folder: Path) -> None:
    before = to_plain(load_config([f"models.path='{folder}'"]))
    changes = {
        "models.variant=fp16": 'models.variant: was null, is "fp16"',
        "models.components={vae: a/b}": 'models.components.vae.path: was null, is "a/b"',
        "models.scheduler={class: LCMScheduler}": 'models.scheduler.class: was null, is "LCMScheduler"',
    }
    for override, line in changes.items():
        assert line in changed_keys(before, to_plain(load_config([f"models.path='{folder}'", override])))
    lora = before["models"] | {"loras": [{"path": "a/b", "file": None, "weight": 1.0}]}
    (line,) = changed_keys(before, before | {"models": lora})
    assert line.startswith("models.loras: was null, is [")
    older = {key: value for key, value in before["models"].items() if key not in ("variant", "components", "loras")}
    assert changed_keys(before | {"models": older}, before) == []


def test_a_run_says_which_variant_it_takes(folder: Path, tmp_path: Path) -> None:
    assert note_on_variant({"path": str(folder)}) == ""
    tiny_family("sd").save_pretrained(tmp_path, variant="fp16")
    assert note_on_variant({"path": str(tmp_path), "variant": None}).startswith(
        f"`models.variant`: {tmp_path} has no plain weights, only those of the variant fp16, so they are taken"
    )
    assert note_on_variant({"path": str(tmp_path), "variant": "fp16"}) == ""
