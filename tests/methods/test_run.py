"""Every shipped method through the runner: records, histories, resume, page."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from sgool.report import build_report
from sgool.run.config import load_config
from sgool.run.fit import run_experiment
from sgool.run.outcome import Outcome
from tests.tiny_run import tiny_overrides

METHODS = ("vanilla", "best_of_n", "clip_guidance", "doodl", "sgool_paper", "reno")


@pytest.fixture(scope="module")
def options(
    pipeline_folder: Path, clip_folder: Path, wordpiece_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Overrides that make a run of seconds."""
    prompts = tmp_path_factory.mktemp("prompts") / "two.csv"
    prompts.write_text("prompt\na cat\ntwo cats\n", encoding="utf-8")
    few = "optimization.num_optimization_steps=2"
    return [*tiny_overrides(pipeline_folder, clip_folder, prompts, judge=wordpiece_folder), few]


def run(options: list[str], run_dir: Path, *more: str) -> Outcome:
    return run_experiment(load_config([*options, f"run_dir={run_dir}", *more]))


@pytest.fixture(scope="module")
def finished(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All methods on both prompts."""
    return run(options, tmp_path_factory.mktemp("runs") / "all", f"methods=[{','.join(METHODS)}]")


def rows(outcome: Outcome, method: str) -> list[dict[str, str]]:
    """The history of a method's first pair."""
    record = next(record for record in outcome.records if record.method == method)
    file = outcome.run_dir / "pairs" / method / record.pair_id / "history.csv"
    with file.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_records_of_all_methods(finished: Outcome) -> None:
    assert finished.exit_code == 0 and finished.new == 2 * len(METHODS)
    calls = {record.method: record.network_evaluations for record in finished.records}
    # Two steps; two updates with recomputation and a last evaluation; as many calls for best_of_n: five images.
    assert calls == {"vanilla": 2, "best_of_n": 10, "clip_guidance": 2, "doodl": 10, "sgool_paper": 10, "reno": 10}
    first = {record.pair_id: record.metrics["judge/clip_score"] for record in finished.records[:2]}
    for record in finished.records:
        # All start from the same image, but for the last bits of other batch sizes' kernels.
        assert record.metrics["judge/clip_score_initial"] == pytest.approx(first[record.pair_id], abs=1e-2)
        if record.method != "vanilla":
            assert record.metrics.keys() >= {"objective", "objective_initial"}
    for record in finished.records:
        if record.method in ("best_of_n", "doodl", "sgool_paper", "reno"):
            assert record.metrics["objective"] <= record.metrics["objective_initial"]


def test_histories(finished: Outcome) -> None:
    lengths = {method: len(rows(finished, method)) for method in METHODS[1:]}
    assert lengths == {"best_of_n": 5, "clip_guidance": 3, "doodl": 3, "sgool_paper": 3, "reno": 3}
    assert "norm_regularizer" in rows(finished, "reno")[0] and "norm_regularizer" not in rows(finished, "doodl")[0]


def test_resume(finished: Outcome, options: list[str]) -> None:
    again = run(options, finished.run_dir, f"methods=[{','.join(METHODS[1:])}]")
    assert again.new == 0 and [record.method for record in again.records][::2] == list(METHODS[1:])


def test_the_page_has_a_row_for_each(finished: Outcome) -> None:
    page = build_report([finished.run_dir]).read_text(encoding="utf-8")
    for method in METHODS:
        assert f">{method}<" in page or f"{method} " in page


def test_guidance_without_crops_sees_the_whole_image(options: list[str], tmp_path: Path) -> None:
    def history(name: str, *more: str) -> list[dict[str, str]]:
        return rows(run(options, tmp_path / name, "methods=[clip_guidance]", "data.limit=1", *more), "clip_guidance")

    whole = history("whole", "method.clip_guidance.use_crops=false")
    assert whole == history("none", "objective.crops.num=0")
    assert whole[1]["loss"] != history("crops")[1]["loss"]


def test_a_held_out_term_is_measured_apart(options: list[str], wordpiece_folder: Path, tmp_path: Path) -> None:
    kind = "type: text_alignment, " if "type" in load_config().objective.terms.text_alignment else ""
    outcome = run(
        options,
        tmp_path / "run",
        "methods=[doodl]",
        "data.limit=1",
        f"+objective.terms.held={{{kind}weight: 0, clip: {wordpiece_folder}}}",
        "optimization.early_stop={term: held, patience: 1}",
        "optimization.num_optimization_steps=6",
        # Steps so large that the image is another one each time: the other network cannot like all of them better.
        "optimization.gradient_rms=1",
        "optimization.grad_clip_value=null",
    )
    history = rows(outcome, "doodl")
    (record,) = outcome.records
    held = [float(row["held_out"]) for row in history]
    assert "held" not in history[0] and record.num_optimization_steps == len(history) - 1 < 6
    assert held[:-1] == sorted(held[:-1], reverse=True) and held[-1] >= min(held[:-1])
    assert record.network_evaluations == 2 * 2 * len(history)
