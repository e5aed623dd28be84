"""`sgool edit`: a photo, inverted exactly and optimised, from the command line and in its parts."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner, Result

from sgool.cli import app
from sgool.cli.console import ConsoleProgress
from sgool.diffusion import Chain
from sgool.errors import ConfigError, SgoolError
from sgool.methods.latent_pairs import LatentPairModule
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import Objective, TextAlignment
from sgool.prompts.seeding import first_latents
from sgool.results.claims import Claims, read_claims
from sgool.run.config import load_config
from sgool.run.edit import Edit, edit_image, edit_images
from sgool.run.edit_summary import summary
from sgool.run.outcome import Outcome
from sgool.run.progress import Progress
from sgool.run.status import run_status
from sgool.types import PromptSeed, Start
from tests.fake_run import fake_pairs, fake_record
from tests.faults.folders import content, leftovers, rows


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


@pytest.fixture
def photos(photo: Path, tmp_path: Path) -> Path:
    """A folder of three photos in three formats, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    image = Image.open(photo)
    image.save(folder / "first.png")
    image.rotate(180).save(folder / "second.tif")
    image.convert("CMYK").save(folder / "third.jpg")
    (folder / "captions.csv").write_text("image,text\nfirst.png,a cat\nsecond.tif,a dog\n")
    return folder


def records(run_dir: Path, method: str = "doodl") -> dict[str, dict[str, Any]]:
    """Name of the photo -> its record."""
    found = (json.loads(path.read_text()) for path in (run_dir / "pairs" / method).glob("*/record.json"))
    return {record["pair_id"].partition("-")[0]: record for record in found}


def test_several_photos_are_as_many_pairs_with_their_own_texts(
    tiny: Sequence[str], photos: Path, tmp_path: Path
) -> None:
    tiny = [*tiny, "trainer.pairs_per_fit=1"]  # in float32 the bits depend on the size of a batch
    more = ["--captions", photos / "captions.csv", "--text", "a house"]
    result = run(photos, *tiny, *more, f"run_dir={tmp_path / 'run'}", "methods=[doodl,sgool]")
    assert result.exit_code == 0, result.output
    for method in ("doodl", "sgool"):
        texts = {name: record["prompt"] for name, record in records(tmp_path / "run", method).items()}
        assert texts == {"first": "a cat", "second": "a dog", "third": "a house"}
    assert len((tmp_path / "run" / "results.csv").read_text().splitlines()) == 1 + 6
    assert "[2/3] second.tif: inversion error" in result.stdout and "1 of 4 files in the folder" in result.stdout
    assert result.stdout.splitlines()[-1] == f"next: sgool report {tmp_path / 'run'}"
    # Each photo gives what it gives alone.
    alone = run(photos / "second.tif", *tiny, "--text", "a dog", f"run_dir={tmp_path / 'alone'}")
    assert alone.exit_code == 0, alone.output
    name = records(tmp_path / "alone")["second"]["pair_id"]
    found = [
        load_file(tmp_path / where / "pairs" / "doodl" / name / "latents.safetensors") for where in ("run", "alone")
    ]
    assert all(torch.equal(found[0][which], found[1][which]) for which in ("initial", "best"))


def test_a_photo_more_leaves_the_finished_ones_alone(tiny: Sequence[str], photos: Path, tmp_path: Path) -> None:
    args = (*tiny, "objective=color", f"run_dir={tmp_path / 'run'}")
    assert run(photos / "first.png", *args).exit_code == 0
    before = content(tmp_path / "run")
    result = run(photos / "first.png", photos / "third.jpg", *args)
    assert result.exit_code == 0 and "1 to do, 1 done already" in result.stdout
    assert "first.png: inversion error" not in result.stdout
    after = content(tmp_path / "run")
    same = [path for path in before if path.startswith("pairs")]
    assert same and all(after[path] == before[path] for path in same)
    assert records(tmp_path / "run").keys() == {"first", "third"}


def test_one_photo_with_a_bad_inversion_does_not_keep_the_others(
    tiny: Sequence[str], photos: Path, tmp_path: Path
) -> None:
    from sgool.run import edit as module

    config = load_config(["experiment=edit", "objective=color", *tiny, f"run_dir={tmp_path / 'run'}"])
    edits = [Edit(photos / "first.png"), Edit(photos / "second.tif")]
    with pytest.MonkeyPatch.context() as patch:
        bad = lambda error, edit: "too far" if edit.image.name == "first.png" else ""  # noqa: E731
        patch.setattr(module, "too_far_off", bad)
        outcome = edit_images(config, edits)
    assert outcome.exit_code == 1
    assert {name: record["error"] for name, record in records(tmp_path / "run").items()} == {
        "first": "too far",
        "second": None,
    }
    outcome = edit_images(config, edits)  # the failed one is tried again
    assert outcome.exit_code == 0 and {record["status"] for record in records(tmp_path / "run").values()} == {"done"}


def test_edits_take_the_steps_of_doodl() -> None:
    config = load_config(["experiment=edit", "objective=color"])
    assert (config.sampler.name, config.sampler.num_inference_steps) == ("edict", 50)


def test_a_bad_inversion_leaves_edits_alone_that_are_done(tiny: Sequence[str], photos: Path, tmp_path: Path) -> None:
    own = ["experiment=edit", "objective=color", *tiny, f"run_dir={tmp_path / 'run'}"]
    edits = [Edit(photos / "first.png"), Edit(photos / "second.tif")]
    assert edit_images(load_config(own), edits).exit_code == 0
    before = content(tmp_path / "run")
    strict = [replace(edit, max_error=1e-12) for edit in edits]
    outcome = edit_images(load_config([*own, "methods=[doodl,reno]"]), strict)
    assert {(record.method, record.status) for record in outcome.records} == {("reno", "failed")}
    after = content(tmp_path / "run")
    assert {path: after[path] for path in before if path.startswith("pairs")} == {
        path: known for path, known in before.items() if path.startswith("pairs")
    }


def test_a_signal_between_two_inversions(tiny: Sequence[str], photos: Path, tmp_path: Path) -> None:
    class AtOnce(Notes):
        def note(self, text: str) -> None:
            super().note(text)
            if text.startswith("[1/2]"):
                os.kill(os.getpid(), signal.SIGTERM)

    edits = [Edit(photos / "first.png"), Edit(photos / "second.tif")]

    def config(name: str) -> Any:
        return load_config(["experiment=edit", "objective=color", *tiny, f"run_dir={tmp_path / name}"])

    stopped = AtOnce()
    outcome = edit_images(config("run"), edits, stopped)
    assert (outcome.exit_code, outcome.missing, stopped.updates) == (75, 2, [])
    assert not any(text.startswith("[2/2]") for text in stopped.notes)
    assert edit_images(config("run"), edits).exit_code == 0
    assert edit_images(config("other"), edits).exit_code == 0
    found, expected = content(tmp_path / "run"), content(tmp_path / "other")
    assert {k: v for k, v in found.items() if k.startswith("pairs")} == {
        k: v for k, v in expected.items() if k.startswith("pairs")
    }


def test_all_photos_that_cannot_be_read_are_said_together(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (photos / "empty.gif").write_bytes(b"")
    result = run(photos, "objective=color", f"run_dir={tmp_path / 'run'}")
    assert result.exit_code == 2 and not (tmp_path / "run").exists()
    assert "broken.png" in result.stderr and "empty.gif" in result.stderr and "Traceback" not in result.stderr
    result = run(photos, "--captions", photos / "captions.csv", f"run_dir={tmp_path / 'run'}")
    assert result.exit_code == 2 and "or one for each photo with --captions (3 of 5 photos have none" in result.stderr


def test_an_edit_that_changed_nothing_says_so(tiny: Sequence[str], photo: Path, tmp_path: Path) -> None:
    """Steps below the resolution of float32: the photo as it came back stays the best image."""
    result = run(photo, *tiny, "optimization.grad_clip_value=1e-12", "objective=color", f"run_dir={tmp_path}")
    assert result.exit_code == 0, result.output
    assert json.loads((the_folder(tmp_path) / "record.json").read_text())["best_step"] == 0
    assert "which none of 2 updates made lower, so final.png is the starting point" in result.stdout
    assert "→" not in result.stdout.split("doodl: objective")[1]


@pytest.mark.parametrize(
    ("before", "after", "best", "words"),
    [
        (
            0.1002,
            0.1002,
            0,
            "objective 0.1002, which none of 25 updates made lower, so final.png is the starting point",
        ),
        (0.10021, 0.10019, 3, "objective 0.10021 → 0.10019 (lower is better) at update 3 of 25"),
        (0.1002, 0.05, 3, "objective 0.1002 → 0.05 (lower is better) at update 3 of 25"),
    ],
)
def test_the_summary_of_an_edit(before: float, after: float, best: int, words: str, tmp_path: Path) -> None:
    metrics = {"objective_initial": before, "objective": after}
    record = replace(fake_record(fake_pairs()[0], "doodl", best_step=best), metrics=metrics)
    (line, _) = summary(Outcome(tmp_path, (record,), 1))
    assert line.startswith(f"doodl: {words}")


def test_the_summary_of_a_method_without_an_objective_has_its_cost(tmp_path: Path) -> None:
    """One of the user's own need not keep a history, and so has no objective before and after."""
    record = replace(fake_record(fake_pairs()[0], "mine"), metrics={"inversion_error": 1e-6})
    lines = summary(Outcome(tmp_path, (record,), 1))
    calls = record.network_evaluations + record.network_backward_passes
    cost = f"{calls} network calls, {record.seconds:.0f} s"
    assert lines == [f"mine: {cost}", f"images: {tmp_path / 'pairs' / 'mine' / record.pair_id}"]


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
        (["objective=color", "methods=[zero_order]"], "`methods`: zero_order cannot start from an image"),
        (
            ["objective=color", "methods=[doodl]", "optimization.candidates=4"],
            "`optimization.candidates`: expected 1, and null for `optimization.search_share`, for doodl: an edit",
        ),
        (
            ["objective=color", "methods=[doodl]", "budget.calls=5000", "optimization.search_share=0.5"],
            "`optimization.candidates`: expected 1, and null for `optimization.search_share`, for doodl: an edit",
        ),
        (["objective=color", "--fit", "stretch"], "--fit: expected crop, squash or pad, got 'stretch'"),
        (["objective=color", "--max-error", "0"], "--max-error: expected a number above 0, got 0.0"),
        ([], "`objective`: text_alignment compares the image with a text: give one with --text"),
        (["objective=color", "data.seeds=[1,2]"], "`data.seeds`: expected one seed, such as 'data.seeds=[1]', got 2"),
        (["objective=color", "data.seeds=3"], "`data.seeds`: expected one seed, such as 'data.seeds=[1]', got 3"),
        (["objective=color", "data.prompts=text:a cat"], "`data.prompts`: photos take the place of prompts"),
        (["objective=color", "data=parti", "data.limit=2"], "`data`, `data.limit`: photos take the place of prompts"),
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
def test_a_module_starts_from_given_streams(
    models: StableDiffusion, objective: Objective, sampler: str, streams: int
) -> None:
    given = torch.randn(streams, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pair = PromptSeed("a cat", start=Start(given[:, 0]))
    module = LatentPairModule(chain(models, sampler), objective, pairs=[pair])
    assert module.latents.detach().equal(given) and module.latents.data_ptr() != given.data_ptr()
    assert module.sample().shape == (1, 3, 32, 32)


def test_a_module_refuses_streams_that_its_sampler_has_not(models: StableDiffusion, objective: Objective) -> None:
    two, one, wrong = torch.zeros(2, 4, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(4, 4, 8)
    for given, shape in ((two, r"\(2, 4, 8, 8\)"), (wrong, r"\(4, 4, 8\)")):
        with pytest.raises(SgoolError, match=rf"`start.latents` of .*: expected shape \(4, 8, 8\), got {shape}"):
            LatentPairModule(chain(models), objective, pairs=[PromptSeed("a cat", start=Start(given))])
    mixed = [PromptSeed("a cat", start=Start(given)) for given in (one, two)]
    with pytest.raises(SgoolError, match=r"`start\.latents`: expected the same number of streams for all pairs"):
        LatentPairModule(chain(models, "belm"), objective, pairs=mixed)


def test_a_network_may_be_told_something_else_than_the_objective(models: StableDiffusion, objective: Objective) -> None:
    def sampled(*pairs: PromptSeed) -> Tensor:
        return LatentPairModule(chain(models), objective, pairs=pairs).sample()

    start = Start(first_latents(3, (4, 8, 8)), network_prompt="two dogs")
    told, same, other = PromptSeed("a cat", 3, start=start), PromptSeed("two dogs", 3), PromptSeed("a cat", 3)
    assert sampled(told).equal(sampled(same)) and not sampled(told).equal(sampled(other))
    # An empty text is one too: it is what an edit's network is told.
    silent = PromptSeed("a cat", 3, start=replace(start, network_prompt=""))
    assert sampled(silent).equal(sampled(PromptSeed("", 3)))
    # Of a batch each pair is told its own.
    assert sampled(told, other).allclose(torch.cat([sampled(same), sampled(other)]), atol=1e-5)


@pytest.fixture
def objective(clip_tower: ClipTower) -> Objective:
    return Objective({"text": TextAlignment(clip_tower)})


def chain(models: StableDiffusion, sampler: str = "ddim") -> Chain:
    return Chain(models, sampler=sampler, num_inference_steps=2, guidance_scale=1.0)


# An edit is a pair like any other: it can be interrupted, continued, logged and claimed


class Notes(Progress):
    """Keeps what is told; calls a function at each update."""

    def __init__(self, at_update: Callable[[int], None] | None = None) -> None:
        self.notes: list[str] = []
        self.updates: list[int] = []
        self._at_update = at_update

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, update: int, total: int, *_: Any, **__: Any) -> None:
        self.updates.append(update)
        if self._at_update is not None:
            self._at_update(update)


def terminate(at: int) -> Callable[[int], None]:
    """A SIGTERM at an update."""
    return lambda update: os.kill(os.getpid(), signal.SIGTERM) if update == at else None


@pytest.fixture(scope="module")
def four_updates(tiny: Sequence[str]) -> list[str]:
    """Overrides of an edit that is long enough to be interrupted, with logs."""
    own = ["optimization.num_optimization_steps=4", "optimization.snapshot_every=2", "objective=symmetry", "logger=csv"]
    return [*tiny, *own, "trainer.threads=1"]


@pytest.fixture(scope="module")
def undisturbed(four_updates: list[str], photo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert edit_image(load_config(["experiment=edit", *four_updates, f"run_dir={run_dir}"]), Edit(photo)).exit_code == 0
    return content(run_dir)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_signal_in_the_middle_and_the_same_command_again(
    four_updates: list[str], photo: Path, undisturbed: dict[str, Any], tmp_path: Path, at: int
) -> None:
    config = load_config(["experiment=edit", *four_updates, f"run_dir={tmp_path}"])
    first, second = Notes(terminate(at)), Notes()
    outcome = edit_image(config, Edit(photo), first)
    assert (outcome.exit_code, outcome.interrupted, outcome.missing) == (75, "SIGTERM", 1)
    assert first.updates == list(range(1, at + 1))
    (checkpoint,) = tmp_path.glob("checkpoints/doodl/my-photo-*.ckpt")
    assert json.loads(checkpoint.with_suffix(".json").read_text())["update"] == at
    assert not list(tmp_path.rglob("record.json")) and not read_claims(tmp_path)
    assert [int(row["update"]) for row in curves(tmp_path)] == list(range(at))
    assert edit_image(config, Edit(photo), second).exit_code == 0
    assert second.updates == list(range(at + 1, 5))
    assert content(tmp_path) == undisturbed
    assert leftovers(tmp_path) == []


def test_a_signal_before_the_first_update(
    four_updates: list[str], photo: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    class AtOnce(Notes):
        def note(self, text: str) -> None:
            if text.startswith("inversion error"):
                os.kill(os.getpid(), signal.SIGTERM)

    config = load_config(["experiment=edit", *four_updates, f"run_dir={tmp_path}"])
    stopped = AtOnce()
    assert edit_image(config, Edit(photo), stopped).exit_code == 75 and stopped.updates == []
    assert edit_image(config, Edit(photo)).exit_code == 0
    assert content(tmp_path) == undisturbed


def test_a_signal_at_the_last_update_comes_too_late(
    four_updates: list[str], photo: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    config = load_config(["experiment=edit", *four_updates, f"run_dir={tmp_path}"])
    assert edit_image(config, Edit(photo), Notes(terminate(4))).exit_code == 0
    assert content(tmp_path) == undisturbed


@pytest.mark.parametrize("sampler", ["edict", "belm"])
def test_a_kill_between_two_records_of_a_batch(
    four_updates: list[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """The finished photo is inverted again: its batch goes on from its checkpoint, to the same bits."""
    own = [*four_updates, f"sampler={sampler}", "trainer.pairs_per_fit=2", "trainer.save_every_n_updates=1"]
    edits = [Edit(photos / "first.png"), Edit(photos / "second.tif")]

    def edit(name: str, notes: Notes | None = None, *, max_error: float = 0.01) -> Outcome:
        config = load_config(["experiment=edit", *own, f"run_dir={tmp_path / name}"])
        return edit_images(config, [replace(edit, max_error=max_error) for edit in edits], notes)

    assert edit("undisturbed").exit_code == 0
    with monkeypatch.context() as patch:
        from sgool.run.work import Worker

        def killed(*_: Any) -> None:
            raise SgoolError("as if killed")

        patch.setattr(Worker, "_recorded", killed)
        with pytest.raises(SgoolError, match="as if killed"):
            edit("run")
    assert records(tmp_path / "run").keys() == {"first"}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("pairs/doodl/first-*/record.json")}
    shutil.copytree(tmp_path / "run", tmp_path / "strict")
    outcome = edit("strict", max_error=1e-12)  # what is finished stays so
    assert sorted((record.pair_id[:5], record.status) for record in outcome.records) == [
        ("first", "done"),
        ("secon", "failed"),
    ]
    notes = Notes()
    assert edit("run", notes).exit_code == 0
    assert notes.updates == [4] and not any("anew" in note for note in notes.notes)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert content(tmp_path / "run") == content(tmp_path / "undisturbed")
    assert leftovers(tmp_path / "run") == []
    # Once the batch has ended, nothing is inverted any more.
    again = Notes()
    assert edit("run", again).new == 0 and not any("inversion" in note for note in again.notes)


def test_the_command_says_that_it_was_interrupted(
    four_updates: list[str],
    photo: Path,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        update = ConsoleProgress.update

        def stopping(self: ConsoleProgress, number: int, *rest: Any) -> None:
            update(self, number, *rest)
            terminate(2)(number)

        patch.setattr(ConsoleProgress, "update", stopping)
        result = run(photo, *four_updates, f"run_dir={tmp_path}")
    assert result.exit_code == 75, result.output
    assert "interrupted by SIGTERM: the same command goes on with the 1 result left" in result.stdout
    result = run(photo, *four_updates, f"run_dir={tmp_path}")
    assert result.exit_code == 0, result.output
    assert content(tmp_path) == undisturbed


def test_an_edit_that_another_process_works_on_is_waited_for(
    four_updates: list[str], photo: Path, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgool.run.work._PATIENCE", 0.05)
    (name,) = {Path(path).parts[2] for path in undisturbed if path.startswith("pairs")}
    held, go = threading.Event(), threading.Event()

    def other() -> None:
        with Claims(tmp_path).take("doodl", [name]) as free:
            assert free
            held.set()
            go.wait(120)  # it ends without a record: it was killed

    class Until(Notes):
        def note(self, text: str) -> None:
            super().note(text)
            if "another runner" in text:
                go.set()

    thread, notes = threading.Thread(target=other), Until()
    thread.start()
    held.wait(10)
    config = load_config(["experiment=edit", *four_updates, f"run_dir={tmp_path}"])
    assert edit_image(config, Edit(photo), notes).exit_code == 0
    thread.join()
    assert notes.notes[1:] == [f"another runner works on 1 pair of this one in {tmp_path}: waiting"]
    assert content(tmp_path) == undisturbed


def test_the_curves_are_those_of_the_history(
    four_updates: list[str], photo: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    config = load_config(["experiment=edit", *four_updates, f"run_dir={tmp_path}"])
    assert edit_image(config, Edit(photo)).exit_code == 0
    history, found = rows(the_folder(tmp_path) / "history.csv"), curves(tmp_path)
    assert [row["batch"] for row in found] == [the_folder(tmp_path).name] * 4
    for row, logged in zip(history[:-1], found, strict=True):
        assert float(logged["update"]) == float(row["update"])
        for name in ("loss", "selection", "latent_norm"):
            assert float(logged[name]) == pytest.approx(float(row[name]), rel=1e-6)


def curves(run_dir: Path) -> list[dict[str, str]]:
    return [row for path in sorted(run_dir.glob("logs/doodl/updates*.csv")) for row in rows(path)]


def test_each_row_of_captions_has_its_own_seed_and_negative_prompt(
    tiny: Sequence[str], photos: Path, tmp_path: Path
) -> None:
    """The crops are those of the seed, and the pair's id and record have it; the others get those of the data."""
    (photos / "own.csv").write_text("image,text,seed,negative_prompt\nfirst.png,a cat,5,fog\nsecond.tif,a dog,,\n")
    args = [*tiny, "--captions", str(photos / "own.csv"), "data.seeds=[2]", "data.negative_prompt=rain"]
    result = run(*args, f"run_dir={tmp_path / 'run'}")
    assert result.exit_code == 0, result.output
    found = records(tmp_path / "run")
    assert {name: record["seed"] for name, record in found.items()} == {"first": 5, "second": 2}
    for name, text in (("first", "a cat\0fog"), ("second", "a dog\0rain")):
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        assert found[name]["pair_id"].endswith(f"-{digest}-s{found[name]['seed']}")


def test_an_experiment_of_fit_with_several_seeds_gives_its_first(tmp_path: Path) -> None:
    """Only seeds that were typed are refused, and one of them goes on."""
    for own in (["experiment=text_guidance_embedded"], ["data.seeds=1"], ["data.seeds=[7]"]):
        assert run("none.png", *own, "--cfg").exit_code == 0


def test_changes_are_refused_and_accepted(tiny: Sequence[str], photos: Path, tmp_path: Path) -> None:
    args = [*tiny, "objective=color", f"run_dir={tmp_path / 'run'}"]
    assert run(photos / "first.png", *args).exit_code == 0
    changed = [str(photos / "second.tif"), *args, "optimization.lr=0.5"]
    result = run(*changed)
    assert result.exit_code == 2 and "--resume-with-changes" in result.stderr
    result = run(*changed, "--resume-with-changes")
    assert result.exit_code == 0, result.output
    assert records(tmp_path / "run").keys() == {"first", "second"}
    assert len(list((tmp_path / "run").glob("config-*.yaml"))) == 1


def test_status_counts_the_edits_and_not_the_prompts_of_the_defaults(edited: tuple[Path, Result]) -> None:
    (row,) = run_status(edited[0]).methods
    assert (row.method, row.done, row.failed, row.left, row.total) == ("doodl", 1, 0, None, None)


def test_judges_that_read_give_no_score_to_edits_without_a_text(edited: tuple[Path, Result], tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(edited[0], copied)
    before = content(copied)
    result = CliRunner().invoke(app, ["score", str(copied)])
    assert result.exit_code == 2 and "the edits have no text, and all judges compare" in result.stderr
    assert content(copied) == before
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["models"]["judges"]["pixels"] = {"type": "pixels"}
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(app, ["score", str(copied)])
    assert result.exit_code == 0, result.output
    (record,) = records(copied).values()
    added = {name for name in record["metrics"] if "/" in name}
    assert added == {"pixels/psnr", "pixels/ssim"}
