"""Personalisation: reference images, likeness to them, a tiny run, and the papers' settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.emoji_world import words
from experiments.personalization import run, table
from experiments.personalization.references import FOLDER, REFERENCES, paint
from sgool.config.paths import ASSETS
from sgool.metrics import SceneReader
from sgool.metrics.reader import Detection, SceneReading
from sgool.models.clip import load_clip
from sgool.models.images import open_photo, to_tensor
from sgool.run.config import load_config
from tests.experiments import test_emoji_world

#: A fixture: stand-in shapes in place of the emoji.
emoji = test_emoji_world.emoji


def test_references_are_different_nouns_that_a_scene_may_have() -> None:
    things = [scene.objects[0] for scene in REFERENCES.values()]
    assert len({thing.noun for thing in things}) == len(things) == 8
    assert all(thing.tint in (None, *words.allowed_tints(thing.noun)) for thing in things)


def test_painting_writes_one_image_per_reference(emoji: Path, tmp_path: Path) -> None:
    paint(emoji, tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(REFERENCES)
    assert all(Image.open(path).size == (64, 64) for path in tmp_path.iterdir())


def test_the_judge_and_the_reader_recognise_the_committed_references() -> None:
    judge, guide = load_clip("emoji_world/judge"), load_clip("emoji_world/guide")
    reader = SceneReader.from_pretrained(ASSETS / "emoji_world/reader")
    images = {name: to_tensor(open_photo(FOLDER / f"{name}.png"))[None] for name in REFERENCES}
    for name, image in images.items():
        found = table.likeness(image, name, images, judge, guide)
        assert found["judge"] == pytest.approx(1, abs=1e-4)
        assert found["nearest"] == 1
        assert found["judge_others"] < 0.9
        assert table.shown(reader.read(image)[0], name)["all"] == 1


@pytest.mark.parametrize(
    ("detections", "background", "expected"),
    [
        ([("cat", "blue")], "white", (1, 1, 1, 1)),
        ([("cat", "blue"), ("cat", "blue")], "white", (1, 1, 1, 0)),
        ([("cat", "red")], "white", (1, 0, 1, 0)),
        ([("car", "blue")], "white", (0, 0, 1, 0)),
        ([("cat", "blue"), ("car", "blue")], "black", (0, 0, 0, 0)),
        ([], "white", (0, 0, 1, 0)),
    ],
)
def test_what_counts_as_shown(detections: list[tuple[str, str]], background: str, expected: tuple[int, ...]) -> None:
    reading = SceneReading(tuple(Detection(noun, tint, 32, 32, 0.9) for noun, tint in detections), background)
    shown = table.shown(reading, "blue_cat")
    assert tuple(shown[name] for name in ("noun", "tint", "background", "all")) == expected


def test_the_embedded_experiment_runs_and_is_tabulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["data.limit=1", "sampler.num_inference_steps=2", "optimization.num_optimization_steps=1"]
    monkeypatch.chdir(tmp_path)
    run.main(["--out", "runs", "--references", "panda", "--", "trainer.precision=32-true", "logger=none", *short])
    rows = table.pair_rows(Path("runs"))
    assert list(zip(rows["reference"], rows["method"], strict=True)) == [
        ("panda", "best_of_n"),
        ("panda", "doodl"),
        ("panda", "vanilla"),
    ]
    assert np.isfinite(rows[["judge", "guide", "judge_others"]].to_numpy()).all()
    monkeypatch.setattr("sys.argv", ["table", "runs", "--out", "results"])
    table.main()
    assert "| judge, likeness to the reference | " in Path("results.md").read_text(encoding="utf-8")
    assert len(pd.read_csv("results.csv")) == 3


def test_the_papers_settings() -> None:
    config = load_config(
        ["experiment=personalization", "models=sd14", "objective.terms.b_32.images=[emoji_world/references/panda.png]"]
    )
    weights = {name: term.weight for name, term in config.objective.terms.items()}
    assert weights == {"b_32": 3 * 0.5, "l_14": 3 * 0.25, "g_14": 3 * 0.25}
    assert list(config.objective.terms.g_14.images) == ["emoji_world/references/panda.png"]
    optimization, crops = config.optimization, config.objective.crops
    assert (optimization.num_optimization_steps, optimization.grad_clip_value) == (500, 3e-3)
    assert (optimization.lr, optimization.perturb_std, optimization.momentum) == (1, 0, 0.9)
    assert (crops.num, crops.power, crops.reduction) == (16, 0.06, "min")
    assert (config.sampler.name, config.sampler.num_inference_steps) == ("edict", 50)
