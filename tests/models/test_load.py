from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from sgool.config import paths
from sgool.errors import SgoolError
from sgool.models import assets
from sgool.models.complete import refuse_random_weights
from sgool.models.load import load_models
from sgool.models.opening import Opening, open_pipeline
from sgool.models.quiet import without_notes
from sgool.models.stable_diffusion import StableDiffusion


def test_a_pipeline_folder_loads_frozen(models: StableDiffusion, pipeline_folder: Path) -> None:
    assert models.name == str(pipeline_folder) and models.dtype == torch.float32
    assert models.vae_scale_factor == 4 and models.latent_shape() == (4, 8, 8) and models.num_tokens == 16
    for network in (models.vae, models.unet, models.text_encoder):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert models.scheduler.config.prediction_type == "epsilon" and models.scheduler.config.steps_offset == 1


def test_the_schedule_that_a_folder_is_given(pipeline_folder: Path, tmp_path: Path) -> None:
    """A folder's own offset of 0 is read as 1 by diffusers' pipelines; DOODL's needs to be asked for."""
    loaded = load_models(pipeline_folder, steps_offset=0)
    assert [step.timestep for step in loaded.schedule(50).steps] == list(range(980, -1, -20))
    loaded = load_models(pipeline_folder, timestep_spacing="trailing")
    assert [step.timestep for step in loaded.schedule(4).steps] == [999, 749, 499, 249]
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    LCMScheduler.from_config(pipeline.scheduler.config).save_pretrained(tmp_path / "scheduler")
    pipeline.scheduler = LCMScheduler.from_pretrained(tmp_path / "scheduler")
    pipeline.save_pretrained(tmp_path / "distilled")
    loaded = load_models(tmp_path / "distilled")
    assert [step.timestep for step in loaded.schedule(4).steps] == [999, 759, 499, 259]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_memory_format(pipeline_folder: Path, dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_models(pipeline_folder, dtype=dtype, channels_last=True)
    for network in (loaded.vae, loaded.unet, loaded.text_encoder):
        assert {p.dtype for p in network.parameters()} == {dtype}
    assert loaded.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert loaded.encode_prompts(["a red cat"]).dtype == dtype


def test_prompt_embeddings_are_those_of_the_pipeline(models: StableDiffusion, pipeline_folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    expected, negative = pipeline.encode_prompt(["a red cat", "trees"], "cpu", 1, True, negative_prompt=["", "a house"])
    got = models.encode_prompts(["a red cat", "trees"])
    assert got.shape == (2, 16, 16)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(models.encode_prompts(["", "a house"]), negative)


def test_sizes(models: StableDiffusion) -> None:
    assert models.latent_shape(64, 40) == (4, 16, 10) and models.latent_shape(width=64) == (4, 8, 16)
    with pytest.raises(SgoolError, match=r"`models\.height`: expected a multiple of 8 pixels.*got 30; 32 would do"):
        models.latent_shape(height=30)
    with pytest.raises(SgoolError, match=r"`models\.width`: expected a multiple of 8 pixels.*got 0; 8 would do"):
        models.latent_shape(width=0)


def test_what_the_tokenizer_cuts_off_is_said(models: StableDiffusion) -> None:
    long = "a red cat to the left of a blue house and a photo of two green trees on a yellow background"
    (cut,) = models.truncated([long])
    assert cut and long.replace(" ", "").endswith(cut.replace(" ", ""))
    with pytest.warns(UserWarning, match="prompt over 16 tokens: '.*yellow background' of .* is cut off"):
        embeds = models.encode_prompts([long, "a red cat"])
    assert embeds.shape == (2, 16, 16)
    kept = long[: long.index(cut.split()[0], 40)] if cut.split()[0] in long[40:] else long
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(models.encode_prompts([kept]), embeds[:1])  # the rest had no effect


def test_exactly_full_prompts_are_not_cut(models: StableDiffusion) -> None:
    words = "cat " * 40
    (cut,) = models.truncated([words])
    fits = "cat " * (40 - len(cut.split()))
    assert models.truncated([fits]) == [""] and models.truncated([fits + "cat"]) == ["cat"]


def test_a_tokenizer_without_limit_uses_the_text_encoders(models: StableDiffusion, pipeline_folder: Path) -> None:
    loaded = load_models(pipeline_folder)
    loaded.tokenizer.model_max_length = int(1e30)
    torch.testing.assert_close(loaded.encode_prompts(["a red cat"]), models.encode_prompts(["a red cat"]))


def test_all_networks_without_weights_are_named(pipeline_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    for part in ("unet", "text_encoder"):
        for file in (folder / part).glob("*.safetensors"):
            file.unlink()
    with pytest.raises(SgoolError) as caught:
        load_models(folder)
    message = str(caught.value)
    assert f"{folder / 'unet'}: expected weights (diffusion_pytorch_model.safetensors or " in message
    assert f"{folder / 'text_encoder'}: expected weights (model.safetensors or " in message
    assert "found config.json" in message and "vae" not in message.removeprefix(str(folder))


@pytest.mark.parametrize(
    ("part", "network", "weight"),
    [
        ("text_encoder", "CLIPTextModel", "final_layer_norm.bias"),
        ("unet", "UNet2DConditionModel", "conv_out.bias"),
        ("vae", "AutoencoderKL", "decoder.conv_out.bias"),
    ],
)
def test_weights_that_no_file_has(part: str, network: str, weight: str, pipeline_folder: Path, tmp_path: Path) -> None:
    """diffusers and transformers warn and take random numbers: the images would be wrong, and scored all the same."""
    broken = shutil.copytree(pipeline_folder, tmp_path / "broken")
    (file,) = (broken / part).glob("*.safetensors")
    state = load_file(file)
    save_file({name: value for name, value in state.items() if not name.endswith(weight)}, file, {"format": "pt"})
    with pytest.raises(SgoolError, match=rf"expected all weights of {network} in '.*broken', got none for .*{weight}"):
        load_models(broken)
    assert logging.getLogger("diffusers").handlers[0].__class__ is logging.StreamHandler


def test_nothing_is_said_while_a_pipeline_loads(
    pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where torchao is installed, diffusers imports it then, and torch tells its authors of a deprecation."""

    def opened(opening: Opening) -> Any:
        logging.getLogger("torch.utils._pytree").warning("deprecated")
        logging.getLogger("diffusers.utils").warning("a note")
        return open_pipeline(opening)

    monkeypatch.setattr("sgool.models.load.open_pipeline", opened)
    with caplog.at_level(logging.WARNING):
        load_models(pipeline_folder)
    assert caplog.text == ""


def test_other_errors_still_show_where_a_pipeline_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    for name in ("diffusers", "transformers"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
    with refuse_random_weights("here"):
        logging.getLogger("transformers.models.clip").error("a part is broken")
        logging.getLogger("diffusers.models").error("so is another")
    with without_notes(), refuse_random_weights("here"):
        logging.getLogger("diffusers.models").warning("a note")
    assert heard == ["a part is broken", "so is another"]


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    with pytest.raises(SgoolError, match=r"with model_index\.json.*\['weights\.bin'\].*save_pretrained"):
        load_models(tmp_path)


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/folder", "a/b/c", ""])
def test_a_folder_that_is_not_there(path: str) -> None:
    with pytest.raises(SgoolError, match=f"expected an existing folder or a hub id .*got '{path}'"):
        load_models(path)


def test_a_folder_with_a_part_missing(pipeline_folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(pipeline_folder, tmp_path / "broken")
    shutil.rmtree(broken / "scheduler")
    with pytest.raises(SgoolError, match=r"`models.path`: .*broken"):
        load_models(broken)


def test_a_tokenizer_without_its_vocabulary(pipeline_folder: Path, tmp_path: Path) -> None:
    """transformers makes one that gives every prompt the same tokens: the same picture for all of them.

    Release 4 refuses some of them itself.
    """
    broken = shutil.copytree(pipeline_folder, tmp_path / "broken")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (broken / "tokenizer" / name).unlink(missing_ok=True)
    refused = r"broken': expected (a tokenizer with its vocabulary \(tokenizer\.json, or|str, .*a missing file: write)"
    with pytest.raises(SgoolError, match=refused):
        load_models(broken)


def test_a_hub_id_that_cannot_be_reached(tmp_path: Path) -> None:
    code = (
        "from sgool.models.load import load_models\nfrom sgool.errors import SgoolError\n"
        "try:\n    load_models('nobody/no-such-model')\nexcept SgoolError as error:\n    print(error)\n"
    )
    env = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(paths.PACKAGE.parent),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "'nobody/no-such-model' is not complete in the cache" in done.stdout
    assert "(HF_HUB_OFFLINE is set)" in done.stdout and "models.path=PATH" in done.stdout
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_names_of_embedded_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert assets.ASSETS is paths.ASSETS
    monkeypatch.setattr(assets, "ASSETS", tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets" / "emoji_world" / "reader").mkdir(parents=True)
    assert assets.resolve_asset("emoji_world/reader") == str(tmp_path / "assets" / "emoji_world" / "reader")
    assert assets.resolve_asset("emoji_world/nothing") == "emoji_world/nothing"
    assert assets.resolve_asset("owner/model") == "owner/model" and assets.resolve_asset("") == ""
    (tmp_path / "emoji_world").mkdir()  # the user's own wins
    assert assets.resolve_asset("emoji_world") == "emoji_world"
