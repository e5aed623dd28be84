"""The pairs at the top of a report: chosen by rank, never by eye."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from sgool.report import build_report, summary_rows
from sgool.report.examples import Examples, choose_examples
from sgool.report.load import baseline_labels, load_runs, to_frame
from sgool.report.metrics import shown_metrics
from sgool.types import PromptSeed
from tests.fake_run import fake_config, fake_pairs, fake_record, flat, make_fake_run
from tests.report.reading import Page

PROMPTS = [(f"prompt {number}", "even" if number % 2 else "odd") for number in range(11)]


def choose(path: Path) -> Examples | None:
    """The examples of a report's folder."""
    runs = load_runs([path])
    frame = to_frame(runs)
    data = Page(build_report([path])).data
    return choose_examples(frame, shown_metrics(frame.columns, [runs[0].config]), baseline_labels(runs), data)


def gains(path: Path) -> pd.Series:
    """Prompt -> gain in the judge's score averaged over doodl and sgool, worked out from results.csv alone."""
    table = pd.read_csv(path / "results.csv").pivot(index="prompt", columns="method", values="judge/clip_score")
    return ((table["doodl"] + table["sgool"]) / 2 - table["vanilla"]).sort_values(ascending=False)


def test_first_last_and_equal_distances_by_gain(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(PROMPTS, (0,)))
    found = choose(run.path)
    assert found is not None
    assert (found.metric.key, found.pairs, found.ranks) == ("judge/clip_score", 11, (1, 3, 5, 7, 9, 11))
    order = list(gains(run.path).index)
    assert list(found.prompts) == [order[rank - 1] for rank in found.ranks]
    assert [(line.label, line.saliency) for line in found.lines] == [
        ("vanilla", False), ("doodl", False), ("sgool", False), ("sgool", True),
    ]  # fmt: skip


def test_cells_show_the_final_image_its_score_and_its_gain(tmp_path: Path) -> None:
    pairs = fake_pairs(PROMPTS[:2], (0,))
    run = make_fake_run(tmp_path / "run", pairs=pairs, snapshots=(1,), paint=lambda pair, method: flat(len(method)))
    found = choose(run.path)
    assert found is not None and found.ranks == (1, 2)
    first = next(pair for pair in pairs if pair.prompt == found.prompts[0])
    score = {method: fake_record(first, method).metrics["judge/clip_score"] for method in ("vanilla", "doodl")}
    vanilla, doodl, _, overlay = (line.cells[0] for line in found.lines)
    assert (vanilla.value, vanilla.gain, vanilla.frames) == (f"{score['vanilla']:.2f}", "", 1)  # nothing moved
    assert doodl.value == f"{score['doodl']:.2f}"
    assert float(doodl.gain.replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        score["doodl"] - score["vanilla"], abs=6e-3
    )
    assert (doodl.frame, doodl.frames) == (2, 3)
    assert (overlay.frame, overlay.frames, overlay.value) == (3, 4, "")
    with Image.open(run.path / "report/figures/examples.png") as picture:
        assert picture.size[0] > 200 * 2
        pixels = np.asarray(picture.convert("L"))
    assert pixels.std() > 0
    assert pixels[:, :6].min() == 255  # no label is cut off at the left


def test_failed_pairs_are_not_among_them(tmp_path: Path) -> None:
    failed = {("doodl", number): "broken" for number in range(4)}
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(PROMPTS[:6], (0,)), failed=failed)
    found = choose(run.path)
    assert found is not None and found.pairs == 2
    assert set(found.prompts) == {"prompt 4", "prompt 5"}


def test_without_vanilla_the_first_image_counts(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", methods=("doodl",), pairs=fake_pairs(PROMPTS[:3], (0,)))
    found = choose(run.path)
    assert found is not None and found.pairs == 3
    table = pd.read_csv(run.path / "results.csv").set_index("prompt")
    own = table["judge/clip_score"] - table["judge/clip_score_initial"]
    assert list(found.prompts) == list(own.sort_values(ascending=False).index)


def test_what_was_optimised_orders_only_where_nothing_else_can(tmp_path: Path) -> None:
    guide = {"model": "emoji_world/guide", "pretrained": None}
    config = fake_config(models={"guide": guide, "judges": {"judge": guide}})
    run = make_fake_run(tmp_path / "run", config=config, pairs=fake_pairs(PROMPTS, (0,)))
    found = choose(run.path)
    assert found is not None
    assert (found.metric.key, found.metric.judges) == ("scene_accuracy", True)
    for path in run.path.glob("pairs/*/*/record.json"):
        record = json.loads(path.read_text())
        record["metrics"] = {key: value for key, value in record["metrics"].items() if "clip_score" in key}
        path.write_text(json.dumps(record))
    found = choose(run.path)
    assert found is not None
    assert found.metric.name.endswith("CLIP score (optimised against)")
    assert "(optimised against), averaged over the methods" in Page(run.path / "report/index.html").text
    assert {cell.tone for line in found.lines for cell in line.cells} == {""}  # no evidence: no colours


def test_vanilla_alone_is_ordered_by_its_score(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", methods=("vanilla",), pairs=fake_pairs(PROMPTS[:3], (0,)))
    found = choose(run.path)
    assert found is not None and not found.by_gain
    scores = pd.read_csv(run.path / "results.csv").set_index("prompt")[found.metric.key]
    assert list(found.prompts) == list(scores.sort_values(ascending=False).index)
    assert f"in the order of their {found.metric.name};" in Page(run.path / "report/index.html").text


def test_nothing_to_show(tmp_path: Path) -> None:
    failed = {(method, number): "broken" for method in ("vanilla", "doodl") for number in range(3)}
    run = make_fake_run(
        tmp_path / "run", methods=("vanilla", "doodl"), pairs=fake_pairs(PROMPTS[:3], (0,)), failed=failed
    )
    page = Page(build_report([run.path]))
    assert "From best to worst" not in page.text
    assert not (run.path / "report/figures/examples.png").exists()


def test_pictures_of_two_shapes_keep_theirs(tmp_path: Path) -> None:
    """A wide picture in a square cell: white above and below, not stretched."""

    def paint(pair: PromptSeed, method: str) -> np.ndarray:
        return np.zeros((3, 64, 128 if pair.index else 64))

    run = make_fake_run(
        tmp_path / "run", methods=("vanilla", "doodl"), pairs=fake_pairs(PROMPTS[:2], (0,)), paint=paint
    )
    build_report([run.path])
    found = choose(run.path)
    assert found is not None
    wide = found.prompts.index("prompt 1")
    with Image.open(run.path / "report/figures/examples.png") as picture:
        black = np.asarray(picture.convert("L")) < 20
    # Of the pictures of a column, which are 1.19 inches wide at 200 points: as many rows as columns, or half.
    cell = 250
    side = black.shape[1] - 2 * cell
    columns = black[:, side + cell * wide : side + cell * (wide + 1)][-cell:]
    square = black[:, side + cell * (1 - wide) : side + cell * (2 - wide)][-cell:]
    tall, flat_ = (int((part.sum(axis=1) > 200).sum()) for part in (square, columns))
    assert tall == pytest.approx(238, abs=6)
    assert flat_ == pytest.approx(119, abs=6)


def test_pairs_that_not_all_methods_have_are_counted(tmp_path: Path) -> None:
    one = make_fake_run(tmp_path / "one", methods=("vanilla", "doodl"), pairs=fake_pairs(PROMPTS[:4], (0,)))
    two = make_fake_run(tmp_path / "two", methods=("vanilla",), pairs=fake_pairs(PROMPTS, (1,)))
    text = Page(build_report([one.path, two.path], tmp_path / "report")).text
    assert "Not chosen by eye: 4 of the 15 pairs, those that the most methods finished, in the order" in text


def test_a_judge_that_an_earlier_configuration_optimised_is_marked(tmp_path: Path) -> None:
    """The run went on with another objective: some of its pairs were made with the judge's weights."""
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(PROMPTS, (0,)))
    judge = {"model": "emoji_world/judge", "pretrained": None}
    terms = {"terms": {"text_alignment": {"weight": 1.0, "clip": judge}}}
    (run.path / "config-12345678.yaml").write_text(yaml.safe_dump(fake_config(objective=terms)), encoding="utf-8")
    page = Page(build_report([run.path]))
    assert "Judge CLIP score optimised against" in page.text
    assert "in the order of their gain in Scene accuracy" in page.text
    assert summary_rows(list(run.records()), [fake_config(), fake_config(objective=terms)])[0]["judge"] is None
    assert summary_rows(list(run.records()), [fake_config()])[0]["judge"] == "judge/clip_score"
