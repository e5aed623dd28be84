"""The main job end to end, on tiny real models: run folder, resume, failures, logs, the page."""

from __future__ import annotations

import csv
import json
import os
import signal
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sgool.errors import ConfigError, SgoolError
from sgool.report import build_report
from sgool.results import RunFolder
from sgool.run.config import load_config
from sgool.run.fit import Progress, run_experiment
from sgool.run.outcome import Outcome
from sgool.run.rescore import rescore
from sgool.types import PairRecord
from tests.tiny_run import tiny_overrides
from tests.wandb_files import offline_files, read_wandb

METHODS = ("vanilla", "doodl", "sgool_paper")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three prompts with categories."""
    path = tmp_path_factory.mktemp("prompts") / "three.csv"
    path.write_text('prompt,category\na cat,one\n"two cats, red",two\na <b>dog</b>,one\n', encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def options(pipeline_folder: Path, clip_folder: Path, wordpiece_folder: Path, prompts: Path) -> list[str]:
    """Overrides that make a run of seconds."""
    own = ["optimization.num_optimization_steps=2", "trainer.pairs_per_fit=2", f"methods=[{','.join(METHODS)}]"]
    return [*tiny_overrides(pipeline_folder, clip_folder, prompts, judge=wordpiece_folder), *own]


def run(options: list[str], run_dir: Path, *more: str) -> Outcome:
    return run_experiment(load_config([*options, f"run_dir={run_dir}", *more]))


@pytest.fixture(scope="module")
def finished(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One finished run, shared by the tests that only read it."""
    return run(options, tmp_path_factory.mktemp("runs") / "shared")


def test_every_pair_of_every_method_gets_the_files_of_the_contract(finished: Outcome) -> None:
    assert finished.exit_code == 0 and finished.new == 9
    assert [(r.method, r.prompt) for r in finished.records[:4]] == [
        ("vanilla", "a cat"),
        ("vanilla", "two cats, red"),
        ("vanilla", "a <b>dog</b>"),
        ("doodl", "a cat"),
    ]
    for record in finished.records:
        folder = finished.run_dir / "pairs" / record.method / record.pair_id
        names = {path.name for path in folder.iterdir()}
        assert {"initial.png", "final.png", "latents.safetensors", "record.json"} <= names
        assert ("history.csv" in names) == (record.method != "vanilla")
        assert ("saliency.png" in names) == (record.method == "sgool_paper")
        assert Image.open(folder / "final.png").size == (32, 32)
        assert record.metrics.keys() >= {"judge/clip_score", "judge/clip_score_initial", "guide/clip_score"}


def test_results_csv_has_one_row_a_record(finished: Outcome) -> None:
    with (finished.run_dir / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["pair_id"]) for row in rows} == {(r.method, r.pair_id) for r in finished.records}


def test_history_has_a_row_an_update_and_one_for_the_last_latents(finished: Outcome) -> None:
    record = next(r for r in finished.records if r.method == "doodl")
    with (finished.run_dir / "pairs" / "doodl" / record.pair_id / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["update"])) for row in rows] == [0, 1, 2]
    selections = [float(row["selection"]) for row in rows]
    assert record.best_step == selections.index(min(selections))
    assert record.metrics["objective"] == pytest.approx(min(selections))


def test_first_images_are_those_of_vanilla(finished: Outcome) -> None:
    for method in ("doodl", "sgool_paper"):
        for record in (r for r in finished.records if r.method == method):
            pairs = finished.run_dir / "pairs"
            first = (pairs / method / record.pair_id / "initial.png").read_bytes()
            assert first == (pairs / "vanilla" / record.pair_id / "final.png").read_bytes()


def test_network_calls_follow_the_formula(finished: Outcome) -> None:
    # DDIM, 2 steps: each update's forward and recompute, and one forward for the latents after the last update.
    calls = {record.method: record.network_evaluations for record in finished.records}
    assert calls == {"vanilla": 2, "doodl": 2 * 2 * 2 + 2, "sgool_paper": 2 * 2 * 2 + 2}


def test_a_second_run_does_nothing_new(options: list[str], finished: Outcome) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in finished.run_dir.rglob("*") if path.is_file()}
    again = run(options, finished.run_dir)
    assert again.new == 0 and again.records == finished.records
    assert {path: path.stat().st_mtime_ns for path in finished.run_dir.rglob("*") if path.is_file()} == stamps


def test_a_lost_record_is_made_again_and_equal(options: list[str], tmp_path: Path) -> None:
    first = run(options, tmp_path, "methods=[doodl]")
    lost = tmp_path / "pairs" / "doodl" / first.records[1].pair_id / "record.json"
    before = json.loads(lost.read_text())
    lost.write_text(lost.read_text()[:40])  # as a full disk leaves it
    second = run(options, tmp_path, "methods=[doodl]")
    after = json.loads(lost.read_text())
    assert second.new == 1
    # Alone in its batch instead of beside another pair: convolutions may round differently.
    assert after["metrics"] == pytest.approx(before["metrics"], abs=1e-2)


class StoppedAfterABatch(Progress):
    def done(self, records: Sequence[PairRecord]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("again", ["resume=false", "failed"])
def test_an_interruption_is_one_where_older_records_stand(options: list[str], tmp_path: Path, again: str) -> None:
    own = [*options, "methods=[vanilla]", f"run_dir={tmp_path}"]
    assert run_experiment(load_config(own)).exit_code == 0
    if again == "failed":
        folder = RunFolder(tmp_path)
        for record in folder.records():
            folder.replace_record(replace(record, status="failed", error="of another day"))
    more = [again] if "=" in again else []
    outcome = run_experiment(load_config([*own, *more]), StoppedAfterABatch())
    assert (outcome.exit_code, outcome.interrupted, outcome.missing) == (75, "SIGTERM", 0)
    assert outcome.what_is_left() == "interrupted by SIGTERM: the same command goes on with what is left"
    assert run_experiment(load_config(own)).exit_code == 0


def test_other_settings_are_refused_in_the_same_folder(options: list[str], finished: Outcome) -> None:
    with pytest.raises(ConfigError, match=r"optimization.lr: was 1.0, is 2.0"):
        run(options, finished.run_dir, "optimization.lr=2.0")


def test_unwritable_run_folder_is_refused(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SgoolError, match=r"write to the run folder .*file"):
        run(options, tmp_path / "file" / "run")


def test_a_model_folder_that_is_no_pipeline_is_refused(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(SgoolError, match=r"model_index\.json"):
        run(options, tmp_path / "run", f"models.path={tmp_path / 'model'}")
    assert not (tmp_path / "run").exists()


def test_a_failed_pair_is_recorded_and_tried_again(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sgool.objectives import BoundObjective

    original = BoundObjective.__call__

    def broken(self: BoundObjective, images: torch.Tensor, *rest: object) -> object:
        # A NaN that reaches the gradient of the first pair of each batch alone.
        factor = torch.ones(len(images), 1, 1, 1)
        factor[0] = float("nan")
        return original(self, images * factor, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(BoundObjective, "__call__", broken)
        outcome = run(options, tmp_path, "methods=[doodl]")
    assert outcome.exit_code == 1
    assert [r.status for r in outcome.records] == ["failed", "done", "failed"]
    assert "non-finite" in str(outcome.records[0].error)
    again = run(options, tmp_path, "methods=[doodl]")
    assert again.exit_code == 0 and again.new == 2


def test_the_page_escapes_prompts_and_shows_every_pair(finished: Outcome) -> None:
    text = build_report([finished.run_dir]).read_text(encoding="utf-8")
    assert "a &lt;b&gt;dog&lt;/b&gt;" in text and "<b>dog</b>" not in text
    assert text.count("two cats, red") >= 1


def test_wandb_offline_holds_the_same_scores(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    outcome = run(options, tmp_path / "run", "methods=[doodl]", "logger=wandb", "data.limit=2")
    files = offline_files(tmp_path / "run")
    assert len(files) == 1
    found = read_wandb(files[0])
    history = found.history
    assert (found.group, found.job_type) == ("default", "doodl")
    scores = [row["pair/judge/clip_score"] for row in history if "pair/judge/clip_score" in row]
    assert scores == pytest.approx([record.metrics["judge/clip_score"] for record in outcome.records])
    assert sum("fit/loss" in row for row in history) == 2


def test_edict_runs_too(options: list[str], tmp_path: Path) -> None:
    outcome = run(
        options, tmp_path, "methods=[sgool_paper]", "data.limit=1", "sampler=edict", "sampler.num_inference_steps=3"
    )
    assert outcome.exit_code == 0
    # Two calls a step, forward and recompute in two updates, one more forward.
    assert outcome.records[0].network_evaluations == 2 * 3 * (2 * 2 + 1)


def test_rescoring_gives_the_same_scores_up_to_8_bits(options: list[str], tmp_path: Path) -> None:
    outcome = run(options, tmp_path, "methods=[doodl]")
    names = sorted(p.name for p in (tmp_path / "pairs" / "doodl" / outcome.records[0].pair_id).iterdir())
    again = rescore(tmp_path)
    assert again.new == 3
    for before, after in zip(outcome.records, again.records, strict=True):
        # Half a level of 255 in every pixel moves a random network's cosine by less than 0.5 of 100.
        assert after.metrics == pytest.approx(dict(before.metrics), abs=0.5)
        assert after.pair_id == before.pair_id
    assert sorted(p.name for p in (tmp_path / "pairs" / "doodl" / outcome.records[0].pair_id).iterdir()) == names


def test_rescoring_needs_finished_pairs(tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match=r"config\.yaml"):
        rescore(tmp_path)


def test_snapshots_show_the_trajectory(options: list[str], tmp_path: Path) -> None:
    outcome = run(options, tmp_path, "methods=[doodl]", "data.limit=1", "optimization.snapshot_every=2")
    folder = tmp_path / "pairs" / "doodl" / outcome.records[0].pair_id
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == ["0000.png", "0002.png"]
    assert (folder / "snapshots" / "0000.png").read_bytes() == (folder / "initial.png").read_bytes()


class Notes(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_an_over_long_prompt_is_said_once_with_what_is_cut(options: list[str], tmp_path: Path) -> None:
    long = "a cat and " * 30 + "zebra"
    (tmp_path / "long.txt").write_text(f"{long}\na cat\n")
    notes = Notes()
    overrides = [*options, f"run_dir={tmp_path / 'run'}", f"data.prompts={tmp_path / 'long.txt'}", "methods=[vanilla]"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        outcome = run_experiment(load_config(overrides), notes)
    assert outcome.exit_code == 0
    (text,) = notes.texts
    assert text.count(long) == 1 and text.rstrip("'").endswith("zebra")
    # All three cut at the same word, so what is lost is there once too.
    assert "': the pipeline, the judge CLIP and the guide CLIP do not see '" in text
