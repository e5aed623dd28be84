"""Judges that read a pair's columns, through `sgool fit` and `sgool score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sgool.cli import app
from tests.tiny_detectors import save_detector
from tests.tiny_vlm import save_vlm

SMALL = (
    "experiment=demo",
    "budget.calls=null",
    "data=file",
    "methods=[vanilla]",
    "models.device=cpu",
    "trainer.threads=1",
    "logger=none",
    "sampler.num_inference_steps=2",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_vlm(folder / "vlm", "qwen3_vl")
    save_detector(folder / "detector", "mask2former")
    return folder


def command(run_dir: Path, prompts: Path, weights: Path) -> list[str]:
    judges = [
        "judges=[vqa_score,soft_tifa,geneval]",
        f"models.judges.vqa.model={weights}/vlm",
        f"models.judges.tifa.model={weights}/vlm",
        f"models.judges.objects.detector={weights}/detector",
        "models.judges.objects.clip={model: emoji_world/judge, pretrained: null}",
    ]
    return ["fit", *SMALL, *judges, f"data.prompts={prompts}", f"run_dir='{run_dir}'"]


def save_prompts(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_scores_of_columns_are_recorded_and_scored_again(weights: Path, tmp_path: Path) -> None:
    include = [{"class": "dog", "count": 1}]
    row = {"prompt": "a red dog", "questions": ["Is the dog red?"], "include": include, "tag": "single_object"}
    other = {
        "prompt": "a bench",
        "questions": ["Is it big?", ["How many benches are there?", "one"]],
        "tag": "counting",
    }
    prompts = save_prompts(tmp_path / "p.jsonl", row, {**other, "include": [{"class": "bench", "count": 2}]})
    result = CliRunner().invoke(app, command(tmp_path / "run", prompts, weights))
    assert result.exit_code == 0, result.output
    files = sorted((tmp_path / "run" / "pairs").rglob("record.json"))
    before = [json.loads(file.read_text())["metrics"] for file in files]
    for metrics, tag in zip(before, ("single_object", "counting"), strict=True):
        names = {f"tifa/soft_tifa_{mean}" for mean in ("am", "gm")} | {"vqa/vqa_score", "objects/geneval"}
        names |= {f"objects/geneval_{tag}"}
        assert {name for name in metrics if name.startswith(("tifa/", "vqa/", "objects/"))} >= names
        assert 0 < metrics["tifa/soft_tifa_gm"] < 1 and metrics["objects/geneval"] in (0, 1)
    assert CliRunner().invoke(app, ["score", str(tmp_path / "run")]).exit_code == 0
    # The run judged the 8-bit pixels that it saved, so the same judges give the same scores.
    assert [json.loads(file.read_text())["metrics"] for file in files] == before


def test_prompts_without_the_columns_are_refused_before_an_image_is_made(weights: Path, tmp_path: Path) -> None:
    prompts = save_prompts(tmp_path / "p.jsonl", {"prompt": "a red dog", "note": "x"})
    result = CliRunner().invoke(app, command(tmp_path / "run", prompts, weights))
    said = " ".join(result.output.split())
    assert result.exit_code == 2
    assert "`models.judges.tifa.questions`: the prompt 'a red dog' has no questions in a column vqa_list or" in said
    assert "`models.judges.objects`: the prompt 'a red dog' has no column include or exclude" in said
    assert not list((tmp_path / "run").rglob("*.png"))
