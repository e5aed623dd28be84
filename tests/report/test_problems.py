"""What went wrong, found in records and configurations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sgool.report.history import read_histories
from sgool.report.load import load_runs, to_frame
from sgool.report.metrics import shown_metrics
from sgool.report.problems import Problem, differing_settings, find_problems
from sgool.report.provenance import caveats
from sgool.results import RunFolder
from tests.fake_run import METHODS, fake_config, fake_pairs, make_fake_run


def found(*runs: RunFolder) -> dict[str, Problem]:
    loaded = load_runs([run.path for run in runs])
    frame = to_frame(loaded)
    metrics = shown_metrics(frame.columns, [run.config for run in loaded])
    problems = find_problems(loaded, frame, metrics, read_histories(frame), [])
    return {problem.head: problem for problem in problems}


def caveats_of(*runs: RunFolder) -> list[tuple[str, str]]:
    loaded = load_runs([run.path for run in runs])
    return caveats(loaded, shown_metrics(to_frame(loaded).columns, [run.config for run in loaded]))


def edit(run: RunFolder, method: str, pair: int, change: Callable[[dict], None]) -> None:
    path = run.pair_folder(method, fake_pairs()[pair].pair_id) / "record.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_of_a_good_run_there_is_none(tmp_path: Path) -> None:
    """A judge that was optimised against is no fault: what it means stands among the caveats."""
    run = make_fake_run(tmp_path / "run")
    assert found(run) == {}
    notes = dict(caveats_of(run))
    assert "(emoji_world/guide)" in notes["Guide CLIP score was optimised against"]


def test_failures_are_grouped_by_reason(tmp_path: Path) -> None:
    reasons = {
        ("doodl", 0): "out of memory",
        ("doodl", 1): "out of memory",
        ("sgool", 2): "non-finite loss at update 4",
    }
    problems = found(make_fake_run(tmp_path / "run", failed=reasons))
    ids = [pair.pair_id for pair in fake_pairs()]
    assert problems["3 of 18 results failed"].lines == (
        f"doodl: out of memory ({ids[0]}, {ids[1]})",
        f"sgool: non-finite loss at update 4 ({ids[2]})",
    )
    assert problems["Numbers that were not finite"].lines == (
        f"sgool: stopped by a number that was not finite ({ids[2]})",
    )


@pytest.mark.parametrize("word", ["financial infinity pool", "information", "nanometre"])
def test_words_that_hold_nan_or_inf_are_no_numbers(tmp_path: Path, word: str) -> None:
    problems = found(make_fake_run(tmp_path / "run", failed={("doodl", 0): f"no {word}"}))
    assert ("Numbers that were not finite" in problems) == (word == "financial infinity pool")


def test_a_score_that_was_not_finite(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    edit(run, "doodl", 0, lambda record: record["metrics"].update({"judge/clip_score": None}))
    assert found(run)["Numbers that were not finite"].lines == (
        f"doodl: no finite Judge CLIP score of the final image ({fake_pairs()[0].pair_id})",
    )


def test_a_run_continued_with_other_settings(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    earlier = fake_config(sampler={"name": "ddim", "num_inference_steps": 50, "guidance_scale": 4.0})
    (run.path / "config-12345678.yaml").write_text(yaml.safe_dump(earlier))
    (run.path / "config-broken.yaml").write_text("a: [")
    problems = found(run)
    assert problems["Settings that changed within a run"].lines == (
        "run, since config-12345678.yaml: sampler.num_inference_steps: was 50, is 20",
    )
    assert "config-broken.yaml" in problems["Files that do not count"].lines[0]


def test_interrupted_and_invalid_pairs(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    cut, gone = (run.pair_folder("doodl", pair.pair_id) for pair in fake_pairs()[:2])
    (cut / "record.json").write_text('{"pair_id": ')
    (gone / "record.json").unlink()
    problems = found(run)
    assert "the pair is not done: not valid JSON" in problems["Files that do not count"].lines[0]
    assert problems["Interrupted pairs"].lines == (f"run: 1 begun and not finished: doodl/{gone.name}",)
    assert problems["Methods that did not run on every pair"].lines == ("doodl: 4 of 6 pairs",)


def test_cut_off_prompts_where_they_are_recorded(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    for pair in (0, 1, 2):  # two seeds of one prompt, and another
        lost = {"judge/truncated": 1.0 + pair, "truncated": 7.0} if pair < 2 else {"judge/truncated": 3.0}
        edit(run, "sgool", pair, lambda record, lost=lost: record["metrics"].update(lost))
    assert found(run)["Prompts that were cut off"].lines == (
        "judge: 2 prompts, at most 3 characters of two dogs",
        "the diffusion model: 1 prompt, at most 7 characters of a red cat",
    )


def test_several_environments_are_no_fault(tmp_path: Path) -> None:
    """An array of jobs has one for each kind of machine; a reader should know it, but nothing went wrong."""
    run = make_fake_run(tmp_path / "run")
    other = json.loads((run.path / "environment.json").read_text()) | {"device": "another device"}
    (run.path / "environment-1.json").write_text(json.dumps(other))
    assert found(run) == {}
    text = dict(caveats_of(run))["A run made in several environments"]
    assert text.endswith("run: 2 environments, on test device, another device.")


def test_without_config(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    run.config_path.unlink()
    assert "has no config.yaml" in found(run)["Files that do not count"].lines[0]


def test_settings_that_differ_between_runs(tmp_path: Path) -> None:
    sampler = {"name": "edict", "num_inference_steps": 20, "guidance_scale": 4.0, "mixing_coeff": 0.93}
    one = make_fake_run(tmp_path / "one")
    two = make_fake_run(tmp_path / "two", config=fake_config(METHODS[:1], sampler=sampler, trainer={"devices": 4}))
    settings = differing_settings(load_runs([one.path, two.path]))
    # neither the methods nor the number of devices changes what a pair becomes
    assert [(setting.key, setting.values) for setting in settings] == [
        ("sampler.mixing_coeff", ("–", "0.93")), ("sampler.name", ("ddim", "edict")),
    ]  # fmt: skip
    assert differing_settings(load_runs([one.path])) == []
