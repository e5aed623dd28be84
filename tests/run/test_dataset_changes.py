"""Prompt files that change between two starts in one run folder, and prompts with seeds of their own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sgool.cli import app
from sgool.report.load import load_runs, to_frame
from sgool.results import RunFolder
from sgool.run.config import load_config
from sgool.run.fit import run_experiment
from sgool.run.outcome import Outcome
from sgool.run.progress import Progress
from sgool.run.status import run_status
from tests.tiny_run import tiny_overrides


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Case:
    def __init__(self, pipeline: Path, clip: Path, folder: Path) -> None:
        self.prompts, self.run_dir = folder / "prompts.csv", folder / "run"
        own = ["methods=[vanilla]", "logger=csv", f"run_dir={self.run_dir}"]
        self.options = [*tiny_overrides(pipeline, clip, self.prompts), *own]

    def run(self, text: str, *more: str, accept_changes: bool = False) -> tuple[Outcome, list[str]]:
        self.prompts.write_text(text, encoding="utf-8")
        notes = Notes()
        config = load_config([*self.options, *more])
        return run_experiment(config, notes, accept_changes=accept_changes), notes.notes

    def results(self) -> list[tuple[str, int]]:
        with (self.run_dir / "results.csv").open(encoding="utf-8", newline="") as stream:
            return sorted((row["prompt"], int(row["seed"])) for row in csv.DictReader(stream))


@pytest.fixture
def case(pipeline_folder: Path, clip_folder: Path, tmp_path: Path) -> Case:
    return Case(pipeline_folder, clip_folder, tmp_path)


def test_a_line_inserted_into_the_prompt_file(case: Case) -> None:
    first, notes = case.run("prompt\na cat\na dog\na car\n")
    assert first.exit_code == 0 and notes == []
    before = {path: path.read_bytes() for path in case.run_dir.glob("pairs/**/*") if path.is_file()}
    second, notes = case.run("prompt\na bird\na cat\na dog\na car\n")
    assert second.new == 4 and len(second.records) == 4
    said = f"3 records are of pairs that the data set of {case.run_dir} no longer has, and left out of results"
    assert [note.startswith(said) for note in notes] == [True]
    assert case.results() == [("a bird", 0), ("a car", 0), ("a cat", 0), ("a dog", 0)]
    assert all(path.read_bytes() == content for path, content in before.items())  # nothing is deleted
    (run,) = load_runs([case.run_dir])
    assert len(to_frame([run])) == 4 and any(note.startswith(said) for note in run.notes)
    status = run_status(case.run_dir)
    assert [(row.done, row.left, row.total) for row in status.methods] == [(4, 0, 4)]
    assert any(problem.startswith(said) for problem in status.problems)
    assert {record.prompt for record in RunFolder(case.run_dir).scan().left_out} == {"a cat", "a dog", "a car"}
    for command in (["report"], ["score"]):
        shown = CliRunner().invoke(app, [*command, str(case.run_dir)])
        assert shown.exit_code == 0 and said in shown.stderr, shown.output
    # The old file again: its records count again, those of the other one do not.
    third, notes = case.run("prompt\na cat\na dog\na car\n")
    assert third.new == 0 and case.results() == [("a car", 0), ("a cat", 0), ("a dog", 0)]
    assert notes[0].startswith("4 records are of pairs")


def test_means_that_are_logged_are_of_the_data_set(case: Case) -> None:
    case.run("prompt\na cat\na dog\n")
    case.run("prompt\na dog\n")
    records = RunFolder(case.run_dir).records()
    assert [record.prompt for record in records] == ["a dog"]
    logged = json.loads((case.run_dir / "logs/vanilla.means.json").read_text())["means"]
    assert logged["judge/clip_score"] == pytest.approx(records[0].metrics["judge/clip_score"], rel=1e-6)


def test_selections_of_one_data_set_share_a_folder(case: Case) -> None:
    text = "prompt\na cat\na dog\na car\n"
    case.run(text, "data.limit=1")
    case.run(text, "data.indices=[1]", "data.seeds=[3]")
    outcome, notes = case.run(text, "data.indices=[2]")
    assert notes == [] and len(outcome.records) == 1
    assert case.results() == [("a car", 0), ("a cat", 0), ("a dog", 3)]


def test_prompts_with_seeds_of_their_own_resume_and_are_pairs_of_their_own(case: Case) -> None:
    outcome, notes = case.run("prompt,seed,negative_prompt\na cat,7,\na dog,,blurry\n", "data.seeds=[1,2]")
    assert outcome.exit_code == 0 and case.results() == [("a cat", 7), ("a dog", 1), ("a dog", 2)]
    assert len(notes) == 1 and notes[0].startswith("`data.seeds` (1, 2) counts for 1 of 2 prompts")
    assert case.run("prompt,seed,negative_prompt\na cat,7,\na dog,,blurry\n", "data.seeds=[1,2]")[0].new == 0
    # Another seed of its own is another pair, and the old one is no longer in the data set.
    changed, notes = case.run("prompt,seed,negative_prompt\na cat,8,\na dog,,blurry\n", "data.seeds=[1,2]")
    assert changed.new == 1 and case.results() == [("a cat", 8), ("a dog", 1), ("a dog", 2)]
    assert notes[-1].startswith("1 record is of a pair that the data set")
    # The seed decides on the image, and so does the negative prompt.
    same, _ = case.run("prompt,seed\na cat,8\na dog,1\n", f"run_dir={case.run_dir}2")
    pictures = {
        path.parent.name: path.read_bytes()
        for folder in (case.run_dir, Path(f"{case.run_dir}2"))
        for path in folder.glob("pairs/*/*/final.png")
    }
    ids = {(record.prompt, record.seed): record.pair_id for record in changed.records}
    others = {record.prompt: record.pair_id for record in same.records}
    assert ids["a cat", 8] == others["a cat"] and ids["a dog", 1] != others["a dog"]
    assert pictures[ids["a dog", 1]] != pictures[others["a dog"]]


def test_columns_that_are_not_used_are_said(case: Case) -> None:
    _, notes = case.run("prompt,guidance_scale\na cat,9\n")
    assert [note.partition(": ")[2] for note in notes] == [
        "columns that are not used: guidance_scale (`sampler.guidance_scale` counts for all prompts)"
    ]


def test_an_over_long_negative_prompt_is_said_and_recorded(case: Case) -> None:
    long = "blurry and " * 30 + "zebra"
    outcome, notes = case.run(f"prompt,negative_prompt\na cat,{long}\na dog,\n", "data.negative_prompt=ugly")
    (note,) = notes
    assert note.startswith(f"over-long negative prompt {long!r}: the pipeline does not see ") and note.endswith(
        "zebra'"
    )
    cut = {record.prompt: record.metrics.get("negative_prompt/truncated") for record in outcome.records}
    lost = note.partition("does not see ")[2]
    assert cut == {"a cat": len(lost) - 2, "a dog": None}
    _, notes = case.run("prompt\na cat\n", f"data.negative_prompt={long}", f"run_dir={case.run_dir}2")
    assert len(notes) == 1 and notes[0].startswith("over-long negative prompt")
    # Without guidance nobody reads it, and that is said.
    _, notes = case.run(
        "prompt\na cat\n", f"data.negative_prompt={long}", "sampler.guidance_scale=1", f"run_dir={case.run_dir}3"
    )
    assert len(notes) == 1 and notes[0].startswith("negative prompts are not read")


def test_phrases_that_change_between_two_starts(case: Case) -> None:
    own = ["methods=[sgool]", "saliency.match=phrases"]
    first, notes = case.run("prompt,phrases\na cat and a dog,cat|dog\na car,\n", *own)
    assert (first.exit_code, notes) == (0, [])
    known = json.loads((case.run_dir / "dataset.json").read_text())["phrases"]
    assert list(known.values()) == [["cat", "dog"]]
    second, notes = case.run("prompt,phrases\na cat and a dog,\na car,\n", *own)
    assert second.new == 0
    assert [note.partition(" (")[0] for note in notes] == [
        "1 pair finished with other phrases than the prompts have now, and stay as they are; resume=false makes them "
        f"anew. The first is {first.records[0].pair_id}: was 'cat | dog', is 'a cat | a dog'"
    ]
    third, notes = case.run("prompt,phrases\na cat and a dog,\na car,\n", *own, "resume=false")
    assert (third.new, notes) == (2, [])
    assert [[found["phrase"] for found in record.phrases] for record in third.records] == [
        ["a cat", "a dog"],
        ["a car"],
    ]
