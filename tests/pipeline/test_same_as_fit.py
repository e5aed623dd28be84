"""A call makes what `sgool fit` makes of the same settings, prompt and first latents, to the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sgool import SGOOLPipeline, fit
from sgool.types import PairRecord
from tests.pipeline.conftest import quiet, seeded

PROMPT = "a green cat to the left of a red house"
SMALL = ("objective.crops.num=2", "optimization.num_optimization_steps=1", "method.sgool.optimization.candidates=2")


def run(folder: Path, *overrides: str) -> tuple[PairRecord, Path]:
    """One pair of `sgool fit`: its record and its folder."""
    place = [f"run_dir='{folder}'", f"data.prompts=text:{PROMPT}", "models.device=cpu", "trainer.threads=1"]
    (record,) = fit(*place, "logger=none", *overrides).records
    return record, folder / "pairs" / record.method / record.pair_id


def assert_same(result: Any, record: PairRecord, folder: Path) -> None:
    found = load_file(folder / "latents.safetensors")
    assert torch.equal(result.initial_latents[0], found["initial"][0])
    assert torch.equal(result.latents[0], found["best"][0])
    for image, name in ((result.initial_images[0], "initial"), (result.images[0], "final")):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(folder / f"{name}.png").convert("RGB")))
    assert result.results[0].network_evaluations == record.network_evaluations
    assert result.results[0].network_backward_passes == record.network_backward_passes
    same = {name: value for name, value in record.metrics.items() if not name.startswith("scene")}
    assert {name: result.metrics[0][name] for name in same} == same
    if not result.history.empty:
        theirs = pd.read_csv(folder / "history.csv", float_precision="round_trip")
        assert list(theirs["update"]) == list(result.history["update"])
        np.testing.assert_array_equal(result.history["selection"], theirs["selection"])


@pytest.mark.parametrize("method", ["sgool", "doodl", "vanilla", "best_of_n", "reno"])
def test_a_generators_seed_is_that_of_the_command(world: SGOOLPipeline, method: str, tmp_path: Path) -> None:
    few = (*SMALL, *(["method.best_of_n.num_candidates=2"] if method == "best_of_n" else []))
    made = run(tmp_path / "run", "models=emoji_world_turbo", f"methods=[{method}]", "data.seeds=[3]", *few)
    assert_same(world(PROMPT, method=method, generator=seeded(3), overrides=few), *made)


@pytest.mark.parametrize("sampler", ["edict", "belm"])
def test_with_an_experiment_and_another_sampler(sampler: str, world: SGOOLPipeline, tmp_path: Path) -> None:
    """`experiment=paper` has another offset of the timesteps, which a loaded model has to take as well."""
    few = ("experiment=paper", f"sampler={sampler}", "sampler.num_inference_steps=2", *SMALL[:2])
    made = run(tmp_path / "run", "models=emoji_world_turbo", "methods=[doodl]", "data.seeds=[1]", *few)
    assert_same(world(PROMPT, method="doodl", generator=seeded(1), overrides=few), *made)


def test_arguments_are_the_commands_keys(world: SGOOLPipeline, tmp_path: Path) -> None:
    made = run(
        tmp_path / "run", "models=emoji_world_turbo", "methods=[sgool]", "data.seeds=[0]", "data.negative_prompt=a cat",
        "sampler.num_inference_steps=2", "sampler.guidance_scale=2", "budget.calls=40", "objective=color",
        "saliency=spectral_residual", "models.height=32", "models.width=64", *SMALL[:1],
    )  # fmt: skip
    result = world(
        PROMPT, "a cat", num_inference_steps=2, guidance_scale=2, budget=40, objective="color",
        saliency="spectral_residual", height=32, width=64, generator=seeded(0), overrides=SMALL[:1],
    )  # fmt: skip
    assert_same(result, *made)
    assert result.images[0].size == (64, 32)
    assert 0 < result.scores["calls"][0] <= 40


def test_a_drawn_seed_is_told_and_makes_the_same_again(world: SGOOLPipeline, tmp_path: Path) -> None:
    torch.manual_seed(7)
    result = world(PROMPT, method="vanilla")
    torch.manual_seed(7)
    again = world(PROMPT, method="vanilla")
    assert again.seeds == result.seeds != world(PROMPT, method="vanilla").seeds
    (seed,) = result.seeds
    assert_same(result, *run(tmp_path / "run", "models=emoji_world_turbo", "methods=[vanilla]", f"data.seeds=[{seed}]"))


def test_a_folder_with_the_name_of_a_configuration(pipeline_folder: Path, clip_folder: Path, tmp_path: Path) -> None:
    """A folder of the user's, with half the settings from sd14 and the guide from a folder."""
    few = [*SMALL, "sampler.num_inference_steps=2"]
    size = ["models.height=32", "models.width=32"]
    pipe = quiet(
        SGOOLPipeline.from_pretrained(
            pipeline_folder, models="sd14", guide=clip_folder, judges={"judge": clip_folder}, device="cpu"
        )
    )
    result = pipe(PROMPT, generator=seeded(2), height=32, width=32, overrides=few)
    clips = [f"models.guide='{clip_folder}'", f"models.judges={{judge: '{clip_folder}'}}"]
    place = ["models=sd14", f"models.path='{pipeline_folder}'", "methods=[sgool]", "data.seeds=[2]"]
    assert_same(result, *run(tmp_path / "run", *place, *clips, *size, *few))


def test_batches_do_not_change_an_image(world: SGOOLPipeline) -> None:
    few = ["objective.crops.num=2"]

    def make(prompts: Sequence[str], generators: list[torch.Generator], *more: str) -> Any:
        return world(prompts, method="doodl", generator=generators, num_optimization_steps=1, overrides=[*few, *more])

    prompts = [PROMPT, "two red stars", "a fish"]
    together = make(prompts, [seeded(index) for index in range(3)])
    in_twos = make(prompts, [seeded(index) for index in range(3)], "trainer.pairs_per_fit=2")
    assert [result.pair.prompt for result in in_twos.results] == prompts
    alone = make(prompts[2:], [seeded(2)])
    # float32: a batch's convolutions may round in another order.
    torch.testing.assert_close(together.latents, in_twos.latents, atol=1e-4, rtol=0)
    torch.testing.assert_close(together.latents[2:], alone.latents, atol=1e-4, rtol=0)
