"""VQAScore and Soft-TIFA as judges and as terms, over tiny random vision-language models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.metrics import JudgePanel, SoftTIFA, VQAScore
from sgool.metrics.build import build_judges
from sgool.models.networks import Networks
from sgool.models.vlm import VisionLanguageModel
from sgool.objectives import build_term
from sgool.objectives.questions import ColumnQuestions
from sgool.types import PromptSeed
from tests.tiny_vlm import KINDS, save_vlm

COWS = ["How many cows are in the image?", "two"]
RED = ["Is the car red?", "Yes"]
TEMPLATE, ONE_WORD = 'Does this figure show "{}"? Please answer yes or no.', "{} Answer in one word."
PAIRS = [
    PromptSeed("two cows", metadata={"vqa_list": [COWS, RED]}),
    PromptSeed("a {red} car", seed=1, metadata={"vqa_list": [RED], "skills": ["attribute"]}),
]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vlm(tmp_path_factory.mktemp("vlm") / request.param, request.param, 1.05)


@pytest.fixture
def networks() -> Networks:
    return Networks({"device": "cpu"})


def images(number: int = 2, height: int = 40, width: int = 32) -> Tensor:
    noise = torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(0))
    return (noise * 255).round() / 255


def vqa(folder: Path, **changes: Any) -> dict[str, Any]:
    own = {"type": "vqa_score", "model": str(folder), "dtype": "auto", "template": TEMPLATE, "answers": ["Yes"]}
    return {**own, **changes}


def tifa(folder: Path, **changes: Any) -> dict[str, Any]:
    own = {"type": "soft_tifa", "model": str(folder), "dtype": "auto", "template": ONE_WORD, "questions": None}
    return {**own, **changes}


def test_judges_ask_what_is_published(folder: Path, networks: Networks) -> None:
    judges = build_judges({"vqa": vqa(folder), "tifa": tifa(folder)}, {}, networks)
    rows = JudgePanel(judges).judge(images(1).expand(2, -1, -1, -1), images(), PAIRS)
    (model,) = networks._shared.values()
    yes, two = ("Yes", "yes", " yes", " Yes"), ("two", "Two", " two", " Two", "2", " 2")
    cows, red = f"{COWS[0]} Answer in one word.", f"{RED[0]} Answer in one word."
    for row, image, pair in zip(rows, images(), PAIRS, strict=True):
        question = f'Does this figure show "{pair.prompt}"? Please answer yes or no.'
        assert row["vqa/vqa_score"] == model.probability(image, question, ("Yes",))
        chances = [model.probability(image, red, yes)]
        chances += [model.probability(image, cows, two)] * (pair is PAIRS[0])
        # Means in float64 of the same numbers.
        assert row["tifa/soft_tifa_am"] == pytest.approx(sum(chances) / len(chances), rel=1e-12)
        assert row["tifa/soft_tifa_gm"] == pytest.approx(math.prod(chances) ** (1 / len(chances)), rel=1e-12)
    assert rows[0]["tifa/soft_tifa_am"] > rows[0]["tifa/soft_tifa_gm"]
    assert rows[0]["vqa/vqa_score_initial"] == rows[0]["vqa/vqa_score"]  # the same image
    assert rows[1]["vqa/vqa_score_initial"] != rows[1]["vqa/vqa_score"]


def test_a_batch_is_its_images(folder: Path, networks: Networks) -> None:
    judges = build_judges({"vqa": vqa(folder), "tifa": tifa(folder)}, {}, networks)
    together = JudgePanel(judges).judge(None, images(), PAIRS)
    alone = [JudgePanel(judges).judge(None, images()[i : i + 1], PAIRS[i : i + 1])[0] for i in (1, 0)]
    assert together == alone[::-1]
    means = JudgePanel(judges)
    means.judge(None, images(), PAIRS)
    expected = sum(row["tifa/soft_tifa_gm"] for row in together) / 2
    assert float(means.named_metrics()["tifa/soft_tifa_gm"].compute()) == pytest.approx(expected, rel=1e-12)


def test_each_question_is_asked_once(folder: Path, networks: Networks) -> None:
    panel = JudgePanel(build_judges({"vqa": vqa(folder), "tifa": tifa(folder)}, {}, networks))
    (model,) = networks._shared.values()
    calls: list[int] = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    panel.judge(None, images(), PAIRS)
    # One prompt each, two questions and one: both means of Soft-TIFA share them.
    assert len(calls) == 2 + 3


def test_frames_of_a_video(folder: Path, networks: Networks) -> None:
    judges = build_judges({"tifa": tifa(folder)}, {}, networks)
    video = images(4).view(2, 2, 3, 40, 32).transpose(1, 2)
    found = JudgePanel(judges).judge(None, video, PAIRS)
    frames = JudgePanel(judges).judge(None, images(4), [PAIRS[0], PAIRS[0], PAIRS[1], PAIRS[1]])
    for i in range(2):
        expected = sum(row["tifa/soft_tifa_am"] for row in frames[2 * i : 2 * i + 2]) / 2
        assert found[i]["tifa/soft_tifa_am"] == pytest.approx(expected, rel=1e-12)


def test_as_many_pairs_as_images(folder: Path, networks: Networks) -> None:
    judges = build_judges({"vqa": vqa(folder), "tifa": tifa(folder)}, {}, networks)
    for metric, given in ((judges["vqa"][0], ["a"]), (judges["tifa"][0], PAIRS[:1])):
        with pytest.raises(ValueError, match="as many prompts as images, got 1 and 2"):
            metric.update(images(), given)
    with pytest.raises(SgoolError, match="refuses an image of 1000x4 pixels"):
        judges["vqa"][0].update(images(1, 4, 1000), ["a"])


def test_from_python(folder: Path, networks: Networks) -> None:
    built = build_judges({"vqa": vqa(folder), "tifa": tifa(folder)}, {}, networks)
    (model,) = networks._shared.values()
    assert isinstance(model, VisionLanguageModel)
    for metric, args, same in (
        (VQAScore(model), ["a"], built["vqa"][0]),
        (SoftTIFA(model), PAIRS[:1], built["tifa"][1]),
        (SoftTIFA(model, "arithmetic"), PAIRS[:1], built["tifa"][0]),
    ):
        metric.update(images(1), args)
        assert metric.scores.tolist() == same.score(images(1), args).tolist()
    assert [metric.describe()["title"] for metric in built["tifa"]] == ["Soft-TIFA AM", "Soft-TIFA GM"]


# --- questions ------------------------------------------------------------------------------------------------------


def ask(cell: Any, column: str | None = None, **others: Any) -> list[tuple[str, ...]]:
    pair = PromptSeed("p", metadata={(column or "questions"): cell, **others})
    found = ColumnQuestions(column, "{}!", "models.judges.j")(pair)
    return [(one.question, *one.answers) for one in found]


def test_questions_of_every_form_of_cell() -> None:
    yes = ("Yes", "yes", " yes", " Yes")
    assert ask(["Red?", ["Blue?", "Yes"], ("Big?", "no"), {"question": "How many?", "answer": "ten"}]) == [
        ("Red?!", *yes),
        ("Blue?!", *yes),
        ("Big?!", "no", "No", " no", " No"),
        ("How many?!", "ten", "Ten", " ten", " Ten", "10", " 10"),
    ]
    assert ask('[["How many?", "two"], "Red?"]')[0][:2] == ("How many?!", "two")
    assert ask([["How many?", "12"]])[0][1:] == ("12", "12", " 12", " 12")
    assert ask(["Red?"], "mine") == [("Red?!", *yes)]
    assert ask(["Red?"], vqa_list=["Blue?"]) == [("Blue?!", *yes)]  # the first of the usual names


@pytest.mark.parametrize("cell", ["Is it red?", "{}", {"a": 1}, [], 3, [["a", "b", "c"]], ["a", ""], [{"answer": "b"}]])
def test_cells_that_hold_no_questions(cell: Any) -> None:
    with pytest.raises(SgoolError, match=r"`models.judges.j.questions`: the prompt 'p': expected a list of questions"):
        ask(cell)


def test_pairs_without_questions_are_refused_before_a_run(folder: Path, networks: Networks) -> None:
    panel = JudgePanel(build_judges({"tifa": tifa(folder)}, {}, networks))
    assert panel.problems(PAIRS) == []
    bare = PromptSeed("a cat", metadata={"skills": "x"})
    (problem,) = panel.problems([*PAIRS, bare, bare])
    assert problem == (
        "`models.judges.tifa.questions`: the prompt 'a cat' has no questions in a column vqa_list or questions; its "
        "other columns are: skills"
    )
    with pytest.raises(SgoolError, match="has no questions in a column vqa_list or questions"):
        panel.judge(None, images(1), [bare])


# --- terms ----------------------------------------------------------------------------------------------------------


def test_terms_are_the_judges_logarithms(folder: Path, networks: Networks) -> None:
    terms = {
        "vqa_score": build_term("t", {**vqa(folder), "weight": 1, "goal": "maximize"}, networks),
        "soft_tifa": build_term("t", {**tifa(folder), "weight": 1, "goal": "maximize"}, networks),
    }
    judges = build_judges({"vqa": vqa(folder), "tifa": tifa(folder)}, {}, networks)
    assert len(networks._shared) == 1
    rows = JudgePanel(judges).judge(None, images(), PAIRS)
    for kind, name in (("vqa_score", "vqa/vqa_score"), ("soft_tifa", "tifa/soft_tifa_gm")):
        term = terms[kind]
        assert term.input_size is None
        targets = term.targets(PAIRS)
        assert targets.dtype == torch.uint8 and torch.equal(targets[1:], term.targets(PAIRS[1:]))
        seen = images().requires_grad_()
        losses = term(seen, targets)
        # 40 x 32 pixels need no resize, so that the term sees the judge's pixels; float32.
        assert losses.tolist() == pytest.approx([-math.log(row[name]) for row in rows], rel=1e-4)
        losses.sum().backward()
        assert seen.grad is not None and all(float(g.abs().max()) > 0 for g in seen.grad)
        assert term(images()[1:], targets[1:]).tolist() == losses[1:].tolist()


def test_a_term_that_avoids(folder: Path, networks: Networks) -> None:
    avoid = build_term("t", {**vqa(folder), "weight": 1, "goal": "minimize"}, networks)
    rows = JudgePanel(build_judges({"vqa": vqa(folder)}, {}, networks)).judge(None, images(), PAIRS)
    expected = [-math.log(1 - row["vqa/vqa_score"]) for row in rows]
    # Of a probability near 0, float32 keeps 1 - P to 1e-7.
    assert avoid(images(), avoid.targets(PAIRS)).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_terms_refuse_pairs(folder: Path, networks: Networks) -> None:
    term = build_term("t", {**tifa(folder), "weight": 1, "goal": "maximize"}, networks)
    with pytest.raises(SgoolError, match=r"`objective.terms.t.questions`: the prompt 'x' has no questions"):
        term.targets([PromptSeed("x")])
    with pytest.raises(SgoolError, match=r"the questions of 'x' have [\d,]+ bytes; expected at most 16,384"):
        term.targets([PromptSeed("x", metadata={"questions": ["Is it red? " * 200] * 10})])


def test_missing_folders_are_found_before_anything_loads(tmp_path: Path, networks: Networks) -> None:
    judges = {"a": vqa(tmp_path / "none"), "b": tifa(tmp_path)}
    with pytest.raises(ConfigError) as caught:
        build_judges(judges, {}, networks)
    text = str(caught.value)
    assert f"`models.judges.a.model`: there is no folder '{tmp_path / 'none'}'" in text
    assert "`models.judges.b.model`: expected a folder with config.json, a vision-language model" in text
    assert not networks._shared
