"""Prompts longer than a text encoder reads: from a real, tiny run to the report's list of what went wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from sgool.report import build_report
from sgool.run.config import load_config
from sgool.run.fit import run_experiment
from sgool.run.outcome import Outcome
from sgool.run.rescore import rescore
from tests.report.reading import Page

LONG = "a red cat to the left of a blue house and two green trees above a large orange car, " * 4 + "all in a row"
OF_THE_OBJECTIVE = "objective/text_alignment/truncated"
KEYS = {"truncated", "guide/truncated", "judge/truncated", OF_THE_OBJECTIVE}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path, clip_folder: Path) -> Outcome:
    """Two methods on a short and a long prompt; the term reads fewer words than the guide."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "prompts.txt").write_text(f"a cat\n{LONG}\n", encoding="utf-8")
    options = [
        f"models.path={pipeline_folder}",
        f"objective.terms.text_alignment.clip={clip_folder}",
        "models.scene_reader=null",
        "models.device=cpu",
        f"data.prompts={folder / 'prompts.txt'}",
        "sampler.num_inference_steps=2",
        "optimization.num_optimization_steps=1",
        "objective.crops.num=1",
        "trainer.precision=32-true",
        "methods=[vanilla,doodl]",
        f"run_dir={folder / 'run'}",
    ]
    return run_experiment(load_config(options))


def test_records_tell_how_much_was_not_read(outcome: Outcome) -> None:
    for record in outcome.records:
        found = {name: value for name, value in record.metrics.items() if name.endswith("truncated")}
        # No objective takes part in vanilla.
        own = KEYS - {OF_THE_OBJECTIVE} if record.method == "vanilla" else KEYS
        assert set(found) == (own if record.prompt == LONG else set())
        assert all(0 < value < len(LONG) and value == int(value) for value in found.values())
        assert not any(name.endswith("truncated_initial") for name in record.metrics)


def test_the_report_lists_them_and_takes_them_for_no_scores(outcome: Outcome) -> None:
    page = Page(build_report([outcome.run_dir]))
    lost = next(r.metrics for r in outcome.records if r.prompt == LONG and r.method == "doodl")
    for reader, key in [
        ("the diffusion model", "truncated"),
        ("guide", "guide/truncated"),
        ("the objective's term text_alignment", OF_THE_OBJECTIVE),
    ]:
        assert f"{reader}: 1 prompt, at most {lost[key]:.0f} characters of {LONG[:30]}" in page.text
    assert "runcated" not in " ".join(metric["title"] for metric in page.data["metrics"])
    for name in ("tables.md", "tables.tex"):
        assert "runcated" not in (page.path.parent / name).read_text(encoding="utf-8")


def test_scores_are_averaged_without_them(outcome: Outcome) -> None:
    """Their mean would be one over the prompts that were cut off alone."""
    means = json.loads((outcome.run_dir / "logs" / "doodl.means.json").read_text(encoding="utf-8"))["means"]
    assert "guide/clip_score" in means and not any("truncated" in name for name in means)


def test_scoring_again_keeps_them(outcome: Outcome) -> None:
    before = {(r.method, r.pair_id): {k: r.metrics.get(k) for k in KEYS} for r in outcome.records}
    again = rescore(outcome.run_dir)
    assert {(r.method, r.pair_id): {k: r.metrics.get(k) for k in KEYS} for r in again.records} == before


def test_a_column_in_the_results_only_where_it_says_something(outcome: Outcome) -> None:
    with (outcome.run_dir / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [bool(row["truncated"]) for row in rows] == [row["prompt"] == LONG for row in rows]
