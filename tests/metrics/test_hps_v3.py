"""HPSv3 as a judge and as a term of an objective, over a tiny random network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.errors import ConfigError
from sgool.metrics import JudgePanel, PreferenceScore
from sgool.metrics.build import build_judges
from sgool.models.fingerprint import fingerprints
from sgool.models.networks import Networks
from sgool.objectives import build_term
from sgool.run.config import load_config
from sgool.types import PromptSeed
from tests.tiny_hps_v3 import INSTRUCTION, save_hps_v3

PAIRS = [PromptSeed("a cat"), PromptSeed("a {red} car", seed=1)]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"type": "hps_v3", **save_hps_v3(tmp_path_factory.mktemp("hps")), "dtype": "float32"}


@pytest.fixture
def networks() -> Networks:
    return Networks({"device": "cpu"})


def images(height: int = 60, width: int = 90) -> Tensor:
    return (torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def test_the_judge_is_the_published_score(options: dict[str, Any], networks: Networks) -> None:
    judges = build_judges({"j": options}, {}, networks)
    rows = JudgePanel(judges).judge(None, images(), PAIRS)
    (scorer,) = networks._shared.values()
    expected = scorer.published_scores(images(), scorer.encode_prompts([pair.prompt for pair in PAIRS]))
    assert [row["j/hps_v3"] for row in rows] == expected.tolist()
    alone = [JudgePanel(judges).judge(None, images()[i : i + 1], PAIRS[i : i + 1])[0] for i in (0, 1)]
    assert alone == rows
    said = judges["j"][0].describe()
    assert (said["title"], said["higher_is_better"]) == ("HPSv3", True)
    metric = PreferenceScore(scorer, "hps_v3")
    assert metric.score(images(), ["a cat", "a {red} car"]).tolist() == expected.tolist()


@pytest.mark.parametrize("goal", ["maximize", "minimize", 0.7])
def test_the_term_is_the_judge_s_score(options: dict[str, Any], networks: Networks, goal: str | float) -> None:
    term = build_term("t", {**options, "weight": 1, "goal": goal}, networks)
    judges = build_judges({"j": options}, {}, networks)
    assert len(networks._shared) == 1 and term.input_size is None
    assert fingerprints(term) and fingerprints(term) == fingerprints(judges["j"][0])
    # 128 x 128 pixels need no resize, so that the term sees the judge's pixels.
    seen = images(128, 128).requires_grad_()
    scores = [row["j/hps_v3"] for row in JudgePanel(judges).judge(None, seen.detach(), PAIRS)]
    expected = {"maximize": [-s for s in scores], "minimize": scores}.get(str(goal), [abs(s - 0.7) for s in scores])
    targets = term.targets(PAIRS)
    losses = term(seen, targets)
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)  # float32
    losses.sum().backward()
    assert seen.grad is not None and all(float(gradient.abs().max()) > 0 for gradient in seen.grad)
    assert term(images(128, 128)[1:], targets[1:]).tolist() == losses[1:].tolist()


def test_what_is_missing_is_said_together_before_anything_loads(tmp_path: Path) -> None:
    judge, term = "models.judges.hps_v3", "objective.terms.hps_v3"
    with pytest.raises(ConfigError) as caught:
        load_config(
            [
                "judges=hps_v3",
                "objective=hps_v3",
                f"{judge}.checkpoint=no.safetensors",
                f"{judge}.model={tmp_path}",
                f"{term}.checkpoint=none.safetensors",
                f"{term}.instruction=no.py",
            ]
        )
    text = str(caught.value)
    published = "Expected HPSv3.safetensors, published at https://huggingface.co/MizzenAI/HPSv3"
    whole = "the file hpsv3/dataset/data_collator_qwen.py of https://github.com/MizzenAI/HPSv3"
    for words in (
        f"`{judge}.checkpoint`: there is no file 'no.safetensors'",
        f"`{judge}.model`: expected a folder with config.json, Qwen2-VL-7B-Instruct",
        f"`{judge}.instruction`: null stands for the installed package hpsv3, which is not there. Expected {whole}",
        f"`{term}.checkpoint`: there is no file 'none.safetensors'",
        f"`{term}.instruction`: there is no file 'no.py'",
        published,
    ):
        assert words in text


def test_options_that_are_no_options(options: dict[str, Any], tmp_path: Path) -> None:
    given = [f"{key}: {value}" for key, value in options.items() if key != "dtype"]
    with pytest.raises(ConfigError, match=r"`models.judges.j.dtype`: expected auto, float32, bfloat16 or float16"):
        load_config([f"+models.judges.j={{{', '.join([*given, 'dtype: int8'])}}}"])
    broken = tmp_path / "broken.py"
    broken.write_text(INSTRUCTION.read_text().replace("{text_prompt}", "PROMPT"))
    given = [f"{key}: {value}" for key, value in {**options, "instruction": broken}.items()]
    with pytest.raises(ConfigError, match=r"`models.judges.j.instruction`: .*INSTRUCTION must have \{text_prompt\} on"):
        load_config([f"+models.judges.j={{{', '.join(given)}}}"])
