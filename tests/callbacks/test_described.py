"""A run folder of a Trainer's own knows the targets and networks of terms, detectors and early stops."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from sgool import BestOfN, LatentPairModule, Objective, PromptSeed, RunWriter, TextAlignment, default_callbacks
from sgool.callbacks import EarlyStop
from sgool.callbacks.described import digest
from sgool.errors import ConfigError
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, FunctionTerm, ImageAlignment, SaliencySettings
from sgool.objectives.pixels import Color, Sharpness, Symmetry
from sgool.objectives.questions import ColumnQuestions
from sgool.saliency import SpectralResidual
from tests.fits import chain_of, quiet_trainer

PAIRS = [PromptSeed("a cat")]
RED, BLUE = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]


def search(models: StableDiffusion, folder: Path, term: Any, saliency: Any = None, **options: Any) -> None:
    chain = chain_of(models, num_inference_steps=1, guidance_scale=0)
    objective = Objective({"c": term}, crops=CropSettings(num=0), saliency=saliency)
    quiet_trainer([RunWriter(folder, **options)]).predict(BestOfN(chain, objective, num_candidates=2, pairs=PAIRS))


def other_weights(tower: ClipTower) -> ClipTower:
    model = copy.deepcopy(tower.model)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    return ClipTower(model, tower._tokenizer, name=tower.name)


def test_another_target_is_refused_and_the_same_one_is_not(models: StableDiffusion, tmp_path: Path) -> None:
    for _ in range(2):
        search(models, tmp_path, Color(RED))
    with pytest.raises(ConfigError, match=r"method\.best_of_n\.parts\.objective c: was "):
        search(models, tmp_path, Color(BLUE))
    with pytest.raises(ConfigError, match="objective c: was "):
        search(models, tmp_path, Color(RED, region=(0, 0, 0.5, 1)))
    search(models, tmp_path, Color(BLUE), accept_changes=True)


def test_another_network_of_the_same_size_is_refused(
    models: StableDiffusion, clip_tower: ClipTower, tmp_path: Path
) -> None:
    search(models, tmp_path, TextAlignment(clip_tower))
    search(models, tmp_path, TextAlignment(copy.deepcopy(clip_tower)))
    with pytest.raises(ConfigError, match="objective c: was "):
        search(models, tmp_path, TextAlignment(other_weights(clip_tower)))


def test_another_detector_is_refused(models: StableDiffusion, tmp_path: Path) -> None:
    search(models, tmp_path, Color(RED), SaliencySettings(SpectralResidual()))
    with pytest.raises(ConfigError, match="objective's detector: was "):
        search(models, tmp_path, Color(RED), SaliencySettings(SpectralResidual(scales=(32,))))


def test_another_term_of_an_early_stop_is_refused(
    models: StableDiffusion, clip_tower: ClipTower, tmp_path: Path
) -> None:
    def fit(target: Sequence[float]) -> None:
        chain = chain_of(models, num_inference_steps=1, guidance_scale=0)
        objective = Objective({"text": TextAlignment(clip_tower)}, crops=CropSettings(num=0))
        module = LatentPairModule(chain, objective, num_optimization_steps=1, pairs=PAIRS)
        stop = EarlyStop(Color(target), 2)
        quiet_trainer([*default_callbacks(early_stop=stop), RunWriter(tmp_path)]).fit(module)

    fit(RED)
    fit(RED)
    with pytest.raises(ConfigError, match=r"method\.doodl\.parts\.early_stop color: was "):
        fit(BLUE)


def test_a_folder_of_an_earlier_version_goes_on(models: StableDiffusion, tmp_path: Path) -> None:
    search(models, tmp_path, Color(RED))
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del config["method"]["best_of_n"]["parts"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    search(models, tmp_path, Color(BLUE))
    with pytest.raises(ConfigError, match="objective c: was "):  # from then on it is known
        search(models, tmp_path, Color(RED))


class Counting(Color):
    """A term whose attributes change."""

    def __init__(self, *colours: Any, **options: Any) -> None:
        super().__init__(*colours, **options)
        self.calls, self.seen = 0, []

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(tuple(views.shape))
        return super().__call__(views, targets)


def test_what_a_term_counts_is_no_setting(models: StableDiffusion, tmp_path: Path) -> None:
    term = Counting(RED)
    for _ in range(2):
        search(models, tmp_path, term)
    assert term.calls and digest(term) == digest(Counting(RED)) != digest(Counting(BLUE))


def coloured(images: Tensor, weight: float) -> Tensor:
    return weight * images.mean(dim=(1, 2, 3))


def test_the_hash_is_the_same_in_every_process() -> None:
    parts = {
        "b216859c2f76acdb": Color(RED),
        "4a9a80a5230aeeb5": Sharpness(0.5),
        "9bc79db962232b11": FunctionTerm(partial(coloured, weight=2.0), "mean"),
        # A set has another order in each process.
        "ad4496aa8a22189a": ColumnQuestions({"a", "b", "c"}, "{}", "here"),  # type: ignore[arg-type]
    }
    assert [digest(part) for part in parts.values()] == list(parts)
    assert digest(FunctionTerm(partial(coloured, weight=3.0), "mean")) not in parts


def test_a_device_is_no_setting() -> None:
    class Placed(Color):
        def __init__(self, rgb: Sequence[float], device: str) -> None:
            super().__init__(rgb)
            self.device = device

    assert digest(Placed(RED, "cpu")) == digest(Placed(RED, "cuda")) != digest(Placed(BLUE, "cpu"))


def test_axes_and_reference_images_tell_terms_apart(clip_tower: ClipTower) -> None:
    assert digest(Symmetry("vertical")) != digest(Symmetry()) == digest(Symmetry("horizontal"))
    one, other = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert digest(ImageAlignment(clip_tower, [one])) == digest(ImageAlignment(clip_tower, [one.clone()]))
    assert digest(ImageAlignment(clip_tower, [one])) != digest(ImageAlignment(clip_tower, [other]))
