"""Runs as one table: order, labels, and what each method is compared with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from sgool.errors import SgoolError
from sgool.report import build_report
from sgool.report.load import baseline_labels, compared_with, load_runs, method_labels, ordered_methods, to_frame
from sgool.report.metrics import shown_metrics
from sgool.report.summary import compare
from sgool.types import PromptSeed
from tests.fake_run import fake_config, fake_pairs, make_fake_run
from tests.report.reading import Page


def test_several_runs(tmp_path: Path) -> None:
    one = make_fake_run(tmp_path / "one")
    two = make_fake_run(tmp_path / "two", methods=("sgool",))
    (tmp_path / "sub").mkdir()
    three = make_fake_run(tmp_path / "sub" / "one", methods=("clip_guidance",))
    runs = load_runs([one.path, two.path, three.path, one.path])
    assert [run.name for run in runs] == ["one", "two", "one (2)"]
    assert list(method_labels(runs).values()) == ["vanilla", "doodl", "one/sgool", "two/sgool", "clip_guidance"]
    assert baseline_labels(runs) == {
        "vanilla": None, "doodl": "vanilla", "one/sgool": "vanilla", "two/sgool": "vanilla", "clip_guidance": "vanilla",
    }  # fmt: skip


def test_each_run_is_compared_with_its_own_vanilla(tmp_path: Path) -> None:
    runs = load_runs([make_fake_run(tmp_path / name).path for name in ("a", "b")])
    assert baseline_labels(runs)["b/sgool"] == "b/vanilla"


def test_another_baseline(tmp_path: Path) -> None:
    runs = load_runs([make_fake_run(tmp_path / name).path for name in ("a", "b")])
    assert baseline_labels(runs, "doodl") == {
        "a/vanilla": "a/doodl", "a/doodl": None, "a/sgool": "a/doodl",
        "b/vanilla": "b/doodl", "b/doodl": None, "b/sgool": "b/doodl",
    }  # fmt: skip


def test_without_a_baseline_the_first_images(tmp_path: Path) -> None:
    runs = load_runs([make_fake_run(tmp_path / "a", methods=("sgool",)).path])
    assert compared_with(runs) == ["vanilla"]
    assert baseline_labels(runs) == {"sgool": ""}


def test_what_the_others_are_compared_with(tmp_path: Path) -> None:
    runs = load_runs([make_fake_run(tmp_path / "a").path])
    assert compared_with(runs, ["doodl", "vanilla", "doodl"]) == ["doodl", "vanilla"]
    with pytest.raises(SgoolError, match=r"--against dodl: .* which have vanilla, doodl, sgool$"):
        compared_with(runs, ["vanilla", "dodl"])


def test_labels_of_runs_on_different_data_sets(tmp_path: Path) -> None:
    one = make_fake_run(tmp_path / "one")
    pairs = [type(pair)(pair.prompt, pair.seed, pair.index, pair.category, "other") for pair in fake_pairs()]
    two = make_fake_run(tmp_path / "two", pairs=pairs)
    both = make_fake_run(tmp_path / "both", pairs=[*pairs, *fake_pairs()])
    assert set(method_labels(load_runs([one.path, two.path])).values()) == {"vanilla", "doodl", "sgool"}
    assert len(set(method_labels(load_runs([one.path, two.path, both.path])).values())) == 9


class TestFrame:
    def test_columns_and_order(self, tmp_path: Path) -> None:
        (run,) = load_runs([make_fake_run(tmp_path / "run", methods=("sgool", "vanilla")).path])
        frame = to_frame([run])
        assert len(frame) == 12
        assert list(dict.fromkeys(frame["label"])) == ["sgool", "vanilla"]  # the configuration's order
        assert frame["judge/clip_score"].dtype == "float64"
        first = frame.iloc[0]
        record = run.folder.record("sgool", first["pair_id"])
        assert record is not None
        assert first["scene_accuracy"] == record.metrics["scene_accuracy"]
        assert first["error"] is None or pd.isna(first["error"])

    def test_methods_outside_the_configuration_come_last_vanilla_first(self, tmp_path: Path) -> None:
        made = make_fake_run(tmp_path / "run", methods=("a", "vanilla", "z"), config=fake_config(["z", "absent"]))
        (run,) = load_runs([made.path])
        assert ordered_methods(run) == ["z", "vanilla", "a"]


def test_data_sets_of_pairs(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", methods=("sgool",))
    assert set(to_frame(load_runs([run.path]))["dataset"]) == {"fake"}


def test_photos_of_an_edit_are_independent_though_their_prompt_is_one(tmp_path: Path) -> None:
    """Eight photos without a prompt: one data set, eight groups, and so an interval."""
    pairs = [PromptSeed("", 0, 0, "", f"photo-{number}") for number in range(8)]
    config = fake_config(("doodl",), edit={"fit": "crop", "prompt": ""}, name="retouch")
    run = make_fake_run(tmp_path / "run", methods=("doodl",), pairs=pairs, config=config)
    runs = load_runs([run.path])
    frame = to_frame(runs)
    assert set(frame["dataset"]) == {"retouch"}
    assert set(frame["prompt"]) == {""}
    metrics = shown_metrics(frame.columns, [config])
    (row,) = compare(frame, metrics, "vanilla", baseline_labels(runs)).overall
    difference = row.cells[0].difference
    assert difference is not None and (difference.pairs, difference.prompts) == (8, 8)
    assert difference.low is not None
    page = Page(build_report([run.path]))
    assert [entry[1] for entry in page.data["rows"]] == [f"photo-{number}" for number in range(8)]
    assert "group" not in pd.read_csv(run.path / "report/results.csv").columns


def test_two_edits_of_one_photo_are_told_apart_though_their_runs_have_other_names(tmp_path: Path) -> None:
    """Pair ids of edits do not have the run's name: with one label the second edit would replace the first."""
    pairs = [PromptSeed("", 0, 0, "", "photo")]
    runs = []
    for name in ("colour", "beauty"):
        config = fake_config(("doodl",), edit={"fit": "crop", "prompt": ""}, name=name)
        runs.append(make_fake_run(tmp_path / name, methods=("doodl",), pairs=pairs, config=config).path)
    assert list(method_labels(load_runs(runs)).values()) == ["colour/doodl", "beauty/doodl"]
    build_report(runs, tmp_path / "report")
    assert len(list((tmp_path / "report/images").glob("*"))) == 2
