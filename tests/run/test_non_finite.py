"""An autoencoder that overflows in float16: every method fails and says how to mend it, and a run stops early."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sgool.errors import SgoolError
from sgool.methods import Vanilla
from sgool.methods.evaluations import mend_of_overflow
from sgool.models.autoencoder import in_unit_range
from sgool.models.load import load_models
from sgool.results import RunFolder
from sgool.run.config import load_config
from sgool.run.edit import Edit, edit_image
from sgool.run.failures import MOST_FAILURES, Failures
from sgool.run.fit import run_experiment
from sgool.run.outcome import Outcome
from sgool.types import PromptSeed
from tests.fake_run import fake_record
from tests.fits import chain_of
from tests.fits import run as run_method
from tests.tiny import tiny_pipeline
from tests.tiny_run import tiny_overrides

METHODS = ("vanilla", "best_of_n", "clip_guidance", "doodl", "sgool_paper", "reno")


def _overflowing(folder: Path, layer: str) -> Path:
    """A pipeline whose decoder is finite in float32; in float16 a layer's output is infinite."""
    import diffusers

    tiny_pipeline(folder)
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        # Weights of up to 6e4 are numbers of float16, whose largest is 65504; what they make of latents is not.
        module, factor = (vae.decoder.conv_out, 5e5) if layer == "last" else (vae.post_quant_conv, 1e5)
        module.weight.mul_(factor)
        assert module.weight.abs().max() < 65504
    vae.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layer overflows: the norms after it make NaN of that."""
    return _overflowing(tmp_path_factory.mktemp("overflow") / "inside", "first")


@pytest.fixture(scope="module")
def at_the_end(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last layer overflows: pixels are infinite and not NaN, which clamping would make white."""
    return _overflowing(tmp_path_factory.mktemp("overflow") / "last", "last")


def _run(pipeline: Path, clip: Path, run_dir: Path, *more: str, number: int = 1) -> Outcome:
    prompts = run_dir.parent / "prompts.txt"
    prompts.write_text("".join(f"a cat {index}\n" for index in range(number)))
    options = tiny_overrides(pipeline, clip, prompts)
    small = ["optimization.num_optimization_steps=1", "logger=none", f"run_dir={run_dir}"]
    return run_experiment(load_config([*options, *small, *more]))


@pytest.mark.parametrize("where", ["inside", "at_the_end"])
def test_every_method_fails_and_says_how_to_mend_it(
    where: str, clip_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pipeline = request.getfixturevalue(where)
    methods = f"methods=[{','.join(METHODS)}]"
    outcome = _run(pipeline, clip_folder, tmp_path / "half", methods, "models.dtype=float16")
    assert [record.method for record in outcome.failed] == list(METHODS) and outcome.exit_code == 1
    for record in outcome.failed:
        assert "not finite: with models.dtype=float16" in str(record.error), record
        assert "models.vae_dtype=float32" in str(record.error) and "`force_upcast`" in str(record.error)
        folder = tmp_path / "half" / "pairs" / record.method / record.pair_id
        assert not list(folder.glob("*.png"))
        assert not any("clip_score" in name for name in json.loads((folder / "record.json").read_text())["metrics"])
    # So large weights have gradients that are too large for float16, so only methods without them are mended here.
    mended = ["methods=[vanilla,best_of_n]", "models.dtype=float16", "models.vae_dtype=float32"]
    whole = _run(pipeline, clip_folder, tmp_path / "mended", *mended)
    assert whole.exit_code == 0 and len(whole.records) == 2
    whole = _run(pipeline, clip_folder, tmp_path / "whole", "methods=[vanilla]")
    assert whole.exit_code == 0


def _edit(pipeline: Path, clip: Path, folder: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(folder / "photo.png")
    options = [line for line in tiny_overrides(pipeline, clip, folder / "x") if not line.startswith("data.")]
    own = ["objective=color", "logger=none", "models.dtype=float16", f"run_dir={folder / 'run'}"]
    edit_image(load_config(["experiment=edit", *options, *own]), Edit(folder / "photo.png", max_error=10.0))


def test_an_edit_says_it(inside: Path, clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match=r"not finite.*models\.vae_dtype=float32.*`force_upcast`"):
        _edit(inside, clip_folder, tmp_path)  # the encoder is whole, the decoder is not
    assert not list((tmp_path / "run").rglob("record.json"))


def test_latents_of_a_photo_that_are_not_finite(clip_folder: Path, tmp_path: Path) -> None:
    import diffusers

    broken = tiny_pipeline(tmp_path / "pipeline")
    vae = diffusers.AutoencoderKL.from_pretrained(broken / "vae")
    with torch.no_grad():
        vae.quant_conv.bias.fill_(1e6)
    vae.save_pretrained(broken / "vae")
    with pytest.raises(SgoolError, match=r"not finite.*models\.vae_dtype=float32"):
        _edit(broken, clip_folder, tmp_path)


def test_without_a_run_a_result_has_the_error_too(models: object, pipeline_folder: Path) -> None:
    loaded = load_models(pipeline_folder)
    with torch.no_grad():
        loaded.vae.decoder.conv_out.bias.fill_(torch.inf)
    chain = chain_of(replace(loaded), num_inference_steps=2, guidance_scale=2.0)
    (result,) = run_method(Vanilla(chain), [PromptSeed("a cat")])
    assert result.error is not None and result.error.startswith("the first and the final image are not finite with")
    for dtype, vae_dtype, message in (
        (
            torch.float16,
            torch.float16,
            r"models\.dtype=float16 .* models\.vae_dtype=float32 .*models\.dtype=bfloat16",
        ),
        (
            torch.float32,
            torch.float16,
            r"models\.vae_dtype=float16 .* models\.vae_dtype=float32 .*`force_upcast`\)$",
        ),
        (torch.float16, torch.float32, r"the autoencoder is not in float16\)\. Use models\.dtype=bfloat16"),
        (torch.float32, torch.float32, r"models\.dtype=float32: check the weights of models\.path"),
    ):
        mixed = load_models(pipeline_folder, dtype=dtype, vae_dtype=vae_dtype)
        assert re.search(message, mend_of_overflow(chain_of(mixed, num_inference_steps=2)))
    assert in_unit_range(torch.tensor([-1.0, 0.25, 2.0])).tolist() == [0.0, 0.25, 1.0]
    assert in_unit_range(torch.tensor([torch.inf, -torch.inf, torch.nan])).isnan().all()


def test_a_run_whose_first_dozen_pairs_fail_stops(inside: Path, clip_folder: Path, tmp_path: Path) -> None:
    run_dir, half = tmp_path / "run", ("models.dtype=float16", "methods=[vanilla,doodl]", "trainer.pairs_per_fit=4")
    with pytest.raises(SgoolError, match=r"the first 12 pairs of vanilla have all failed, so the run stops.*dtype"):
        _run(inside, clip_folder, run_dir, *half, number=30)
    records = RunFolder(run_dir).records()
    assert [record.status for record in records] == ["failed"] * MOST_FAILURES
    assert {record.method for record in records} == {"vanilla"}
    assert len((run_dir / "results.csv").read_text().splitlines()) == 1 + MOST_FAILURES
    # The next start tries another dozen: what failed before does not count, and comes last.
    with pytest.raises(SgoolError, match="the first 12 pairs of vanilla"):
        _run(inside, clip_folder, run_dir, *half, number=30)
    assert len(RunFolder(run_dir).records()) == 2 * MOST_FAILURES


def test_few_pairs_are_all_tried(inside: Path, clip_folder: Path, tmp_path: Path) -> None:
    outcome = _run(inside, clip_folder, tmp_path / "run", "models.dtype=float16", "methods=[vanilla]", number=11)
    assert len(outcome.failed) == 11 and outcome.exit_code == 1


def test_failures_are_counted_over_processes_and_not_over_starts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).open({"name": "x"}, device="test device")
    pairs = [PromptSeed(f"cat {index}", index=index) for index in range(30)]

    def fail(index: int) -> None:
        folder.write(fake_record(pairs[index], "sgool_paper", status="failed", error="why"))

    for index in range(11):
        fail(index)  # in an earlier start
    time.sleep(0.05)  # times of files are coarse
    failures = Failures(folder)
    time.sleep(0.05)
    own = fake_record(pairs[11], "sgool_paper", status="failed", error="why")
    failures.add(own)
    failures.check("sgool_paper")
    for index in range(12, 23):
        fail(index)  # by another process of this start
    failures.check("doodl")
    with pytest.raises(SgoolError, match="the first 12 pairs of sgool_paper have all failed"):
        failures.check("sgool_paper")
    folder.write(fake_record(pairs[29], "sgool_paper"))  # one that ended well, in any start
    failures.check("sgool_paper")
