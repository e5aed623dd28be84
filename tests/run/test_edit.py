"""`sgool edit`: a photo, inverted exactly and optimised, from the command line and in its parts."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from sgool.cli import app
from sgool.diffusion import build_sampler
from sgool.errors import ConfigError, SgoolError
from sgool.methods.latent_pairs import LatentPairModule
from sgool.models.stable_diffusion import StableDiffusion
from sgool.run.config import load_config
from sgool.run.edit import Edit, edit_image
from sgool.types import PromptSeed


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red ball on a green field, wider than high."""
    image = Image.new("RGB", (120, 80), (90, 160, 80))
    ImageDraw.Draw(image).ellipse((35, 15, 85, 65), fill=(200, 40, 30))
    path = tmp_path_factory.mktemp("photos") / "My Photo.jpg"
    image.save(path, quality=95)
    return path


@pytest.fixture(scope="module")
def tiny(pipeline_folder: Path, clip_folder: Path) -> list[str]:
    """Overrides that make an edit of a second."""
    return [
        f"models.path={pipeline_folder}",
        f"models.guide={clip_folder}",
        "models.judges={}",
        "models.scene_reader=null",
        "models.device=cpu",
        "trainer.precision=32-true",
        "sampler.num_inference_steps=2",
        "optimization.num_optimization_steps=2",
        "optimization.snapshot_every=1",
        "objective.crops.num=2",
    ]


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["edit", *map(str, args)])


def the_folder(run_dir: Path, method: str = "doodl") -> Path:
    (folder,) = (run_dir / "pairs" / method).iterdir()
    return folder


@pytest.fixture(scope="module")
def edited(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """One edit of the embedded model, towards red, shared by the tests that read it."""
    run_dir = tmp_path_factory.mktemp("runs") / "edit"
    more = ["models.device=cpu", "sampler.num_inference_steps=3", "optimization.num_optimization_steps=3"]
    # A larger step than in the shipped settings: three updates have to show what takes 25 there.
    more += ["optimization.grad_clip_value=0.02", "optimization.gradient_rms=0.01", "optimization.snapshot_every=1"]
    return run_dir, run(photo, "objective=color", *more, f"run_dir={run_dir}")


def test_an_edit_ends_better_than_it_began(edited: tuple[Path, Result]) -> None:
    run_dir, result = edited
    assert result.exit_code == 0, result.output
    folder = the_folder(run_dir)
    metrics = json.loads((folder / "record.json").read_text())["metrics"]
    assert metrics["objective"] < metrics["objective_initial"]

    def distance(name: str) -> float:
        """To the target of objective=color, measured on the file."""
        mean = np.asarray(Image.open(folder / name)).mean(axis=(0, 1)) / 255
        return float(((mean - [0.9, 0.2, 0.2]) ** 2).mean())

    assert distance("final.png") < distance("reconstruction.png")
    # 8 bits of a pixel: the mean colour of 64 x 64 of them is known to 1/512 at worst.
    assert distance("final.png") == pytest.approx(metrics["objective"], abs=2e-3)


def test_the_files_of_an_edit(edited: tuple[Path, Result]) -> None:
    folder = the_folder(edited[0])
    names = ["before_after", "final", "initial", "input", "reconstruction"]
    assert sorted(path.stem for path in folder.glob("*.png")) == names
    assert [path.name for path in sorted((folder / "snapshots").iterdir())] == [f"000{u}.png" for u in range(4)]
    sizes = {name: Image.open(folder / f"{name}.png").size for name in names}
    assert sizes.pop("before_after") == (64 + 2 + 64, 64)
    assert set(sizes.values()) == {(64, 64)}
    with (folder / "history.csv").open(newline="") as stream:
        assert [row["update"] for row in csv.DictReader(stream)] == ["0", "1", "2", "3"]
    # The optimisation begins where the inversion ended.
    initial, reconstruction = (np.asarray(Image.open(folder / f"{n}.png")) for n in ("initial", "reconstruction"))
    assert np.abs(initial.astype(int) - reconstruction).max() <= 1
    assert load_file(folder / "latents.safetensors")["initial"].shape == (2, 4, 16, 16)
    side_by_side = np.asarray(Image.open(folder / "before_after.png"))
    assert (side_by_side[:, :64] == np.asarray(Image.open(folder / "input.png"))).all()
    assert (side_by_side[:, -64:] == np.asarray(Image.open(folder / "final.png"))).all()


def test_the_inversion_is_reported_before_the_optimisation(edited: tuple[Path, Result]) -> None:
    run_dir, result = edited
    metrics = json.loads((the_folder(run_dir) / "record.json").read_text())["metrics"]
    # EDICT in float32: its way back loses no more than rounding, here 7 steps of p^-2 on 1e-7.
    assert 0 < metrics["inversion_error"] < 1e-4
    # The autoencoder alone limits what comes back; measured on the files, 8 bits add an error of about 59 dB.
    assert metrics["inversion_psnr"] == pytest.approx(metrics["vae_psnr"], abs=0.1)
    names = (the_folder(run_dir) / f"{name}.png" for name in ("input", "reconstruction"))
    before, after = (np.asarray(Image.open(name)) / 255 for name in names)
    assert -10 * np.log10(((before - after) ** 2).mean()) == pytest.approx(metrics["inversion_psnr"], abs=0.1)
    text = " ".join(result.stdout.split())
    note, outcome = text.index("inversion error"), text.index("doodl: objective")
    assert note < outcome and f"autoencoder alone {metrics['vae_psnr']:.1f} dB" in text


def test_the_pair_id_is_the_files_name_and_content(edited: tuple[Path, Result], photo: Path) -> None:
    import hashlib

    digest = hashlib.sha256(photo.read_bytes()).hexdigest()[:8]
    assert the_folder(edited[0]).name.startswith(f"my-photo-{digest}-00000-")


def test_a_finished_edit_is_not_made_again(edited: tuple[Path, Result], photo: Path) -> None:
    run_dir, _ = edited
    record = the_folder(run_dir) / "record.json"
    before = record.stat().st_mtime_ns
    config = load_config(["experiment=edit", "objective=color", *_shared(run_dir)])
    outcome = edit_image(config, Edit(photo))
    assert (outcome.new, len(outcome.records), outcome.exit_code) == (0, 1, 0)
    assert record.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"made by another configuration:\n  edit.fit: was \"crop\", is \"pad\""):
        edit_image(config, Edit(photo, fit="pad"))


def _shared(run_dir: Path) -> list[str]:
    """The overrides of ``edited`` that its run folder compares."""
    return [
        f"run_dir={run_dir}",
        "sampler.num_inference_steps=3",
        "optimization.num_optimization_steps=3",
        "optimization.grad_clip_value=0.02",
        "optimization.gradient_rms=0.01",
    ]


@pytest.mark.parametrize("sampler", ["belm", "bdia", "ddim", "edict"])
def test_every_invertible_sampler(tiny: Sequence[str], photo: Path, tmp_path: Path, sampler: str) -> None:
    # DDIM's way back is approximate, and a random network too steep for its iterations; what follows still works.
    loose = ["--max-error", "1000"] if sampler == "ddim" else []
    result = run(photo, "objective=symmetry", *tiny, f"sampler={sampler}", f"run_dir={tmp_path}", *loose)
    assert result.exit_code == 0, result.output
    record = json.loads((the_folder(tmp_path) / "record.json").read_text())
    assert (record["metrics"]["inversion_error"] < 1e-4) == (sampler != "ddim")
    streams = 1 if sampler == "ddim" else 2
    assert load_file(the_folder(tmp_path) / "latents.safetensors")["best"].shape[0] == streams


def test_a_text_and_several_images_in_one_folder(tiny: Sequence[str], photo: Path, tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    Image.open(photo).convert("L").save(grey)
    for image, text in ((photo, "a cat"), (photo, "a dog"), (grey, "a dog")):
        result = run(image, *tiny, "--text", text, f"run_dir={tmp_path / 'run'}")
        assert result.exit_code == 0, result.output
    folders = sorted((tmp_path / "run" / "pairs" / "doodl").iterdir())
    prompts = [json.loads((folder / "record.json").read_text())["prompt"] for folder in folders]
    assert [folder.name.partition("-")[0] for folder in folders] == ["grey", "my", "my"]
    assert sorted(prompts) == ["a cat", "a dog", "a dog"]
    # The network is told nothing of the text: the same photo comes back.
    first, second = (np.asarray(Image.open(folder / "reconstruction.png")) for folder in folders[1:])
    assert (first == second).all()
    assert len((tmp_path / "run" / "results.csv").read_text().splitlines()) == 4


def test_a_bad_inversion_stops_before_the_optimisation(tiny: Sequence[str], photo: Path, tmp_path: Path) -> None:
    result = run(photo, "objective=color", *tiny, f"run_dir={tmp_path}", "--max-error", "1e-12")
    assert result.exit_code == 2
    assert "inversion error" in result.stdout and "does not lead back to it: relative error" in result.stderr
    assert "limit 1e-12. Use sampler=edict" in result.stderr
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["objective=color", "sampler=dpm_solver"], "`sampler`: dpm_solver has no inverse; use edict, belm or bdia"),
        (["objective=color", "methods=[vanilla]"], "`methods`: vanilla cannot start from an image"),
        (["objective=color", "--fit", "stretch"], "--fit: expected crop, squash or pad, got 'stretch'"),
        (["objective=color", "--max-error", "0"], "--max-error: expected a number above 0, got 0.0"),
        ([], "`objective`: text_alignment compares the image with a text: give one with --text"),
        (["objective=colour"], "there is no choice 'colour'; did you mean `color`?"),
    ],
)
def test_mistakes_in_the_command(photo: Path, tmp_path: Path, args: list[str], words: str) -> None:
    result = run(photo, *args, f"run_dir={tmp_path / 'run'}")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and words in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()


def test_mistakes_in_the_image(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n no more")
    for image, words in (("none.png", "does not exist"), (broken, "IMAGE: ")):
        result = run(image, "objective=color", f"run_dir={tmp_path / 'run'}")
        assert result.exit_code == 2 and words in result.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("sampler", "streams"), [("ddim", 1), ("edict", 2), ("belm", 1), ("belm", 2)])
def test_a_module_starts_from_given_streams(models: StableDiffusion, sampler: str, streams: int) -> None:
    given = torch.randn(streams, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"sampler": build_sampler(sampler), "num_inference_steps": 2, "guidance_scale": 1.0}
    module = LatentPairModule(models, [PromptSeed("a cat")], initial_latents=given, **options)
    assert module.latents.detach().equal(given) and module.latents.data_ptr() != given.data_ptr()
    assert module.sample().shape == (1, 3, 32, 32)


def test_a_module_refuses_streams_that_its_sampler_has_not(models: StableDiffusion) -> None:
    with pytest.raises(SgoolError, match=r"`initial_latents`: expected shape \(1, 4, 8, 8\), got \(2, 1, 4, 8, 8\)"):
        LatentPairModule(models, [PromptSeed("a cat")], initial_latents=torch.zeros(2, 1, 4, 8, 8))


def test_a_network_may_be_told_something_else_than_the_objective(models: StableDiffusion) -> None:
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    told = LatentPairModule(models, [PromptSeed("a cat", 3)], network_prompts=["two dogs"], **options)
    same = LatentPairModule(models, [PromptSeed("two dogs", 3)], **options)
    other = LatentPairModule(models, [PromptSeed("a cat", 3)], **options)
    assert told.sample().equal(same.sample()) and not told.sample().equal(other.sample())
    with pytest.raises(SgoolError, match="`network_prompts`: expected one a pair, 1, got 2"):
        LatentPairModule(models, [PromptSeed("a cat")], network_prompts=["a", "b"], **options)
