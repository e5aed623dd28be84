"""What a run folder says about metrics and networks, written by several starts."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sgool.results import RunFacts, RunFolder


def test_several_starts_add_what_they_know(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.networks() == {} == folder.descriptions()
    folder.describe_metrics({"a/clip_score": {"title": "old"}, "b/x": {"title": "X"}})
    folder.describe_metrics({"a/clip_score": {"title": "new", "higher_is_better": True}})
    assert folder.descriptions() == {
        "a/clip_score": {"title": "new", "higher_is_better": True},
        "b/x": {"title": "X"},
    }
    folder.record_judges({"a": {"22", "11"}, "pixels": ()})
    folder.record_objective("doodl", {"text": ["33"]})
    folder.record_objective("vanilla", {})
    folder.record_objective("doodl", {"text": ["11"], "taste": ["44"]})
    folder.record_judges({"a": ["55"]})
    objectives = {"doodl": {"text": ["11", "33"], "taste": ["44"]}, "vanilla": {}}
    assert folder.networks() == {"judges": {"a": ["11", "22", "55"], "pixels": []}, "objectives": objectives}
    folder.record_judges({"a": ["55"]}, replace=True)  # all pairs were scored again
    assert RunFacts(tmp_path).networks() == {"judges": {"a": ["55"]}, "objectives": objectives}
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_same_again_writes_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for _ in range(2):
        folder.record_objective("doodl", {"text": ["1"]})
        written = (tmp_path / "networks.json").stat().st_ino
    assert (tmp_path / "networks.json").stat().st_ino == written
    folder.record_objective("doodl", {"text": ["1"]})
    assert (tmp_path / "networks.json").stat().st_ino == written


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: RunFacts(tmp_path).record_objective(f"m{i}", {"t": [str(i)]}), range(16)))
    assert RunFacts(tmp_path).networks()["objectives"] == {f"m{i}": {"t": [str(i)]} for i in range(16)}


@pytest.mark.parametrize("text", ["{", "[1]", '{"judges": 3, "objectives": {"a": [1]}}'])
def test_files_that_somebody_broke(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "networks.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert RunFacts(tmp_path).networks() in ({}, {"judges": {}, "objectives": {"a": {}}})
    RunFacts(tmp_path).record_judges({"a": ["1"]})
    assert json.loads((tmp_path / "networks.json").read_text())["judges"] == {"a": ["1"]}
