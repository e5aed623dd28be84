"""The configurations of public prompt sets, on invented prompts with the quirks of the public files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sgool.errors import ConfigError
from sgool.prompts import load_pairs
from sgool.run.config import load_config, to_plain
from sgool.types import PromptSeed

_DRAWBENCH = 'A violet kettle.,Colors\n"Two spoons, and a lid.",Counting\nA sürprise,Somebody et al. \n'
_FILES = {
    "drawbench-a.csv": "Prompt,Category\n" + _DRAWBENCH,
    "drawbench-b.csv": ("Prompts,Category\n" + _DRAWBENCH).replace("\n", "\r\n"),
    "drawbench-c.csv": "\ufeffprompts,category\n" + _DRAWBENCH,
    "csp.csv": "prompt,phenomenon\nA cook slices bread,word_order\nBread slices a cook,word_order\nNo cups,negation\n",
    "daily_dalle.txt": "a furry cloud, backlit\na lamp’s dream \n",
    "parti.tsv": 'Prompt\tCategory\tChallenge\tNote\n7\tAbstract\tBasic\tnumbers\n"Go" is on a flag\tArts\tWriting\t\n'
    "7\tAbstract\tBasic\tagain\n7\tArts\tBasic\t\n",
}


def _data(*overrides: str) -> dict[str, Any]:
    return to_plain(load_config(overrides))["data"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in _FILES.items():
        (tmp_path / name).write_bytes(text.encode("utf-8"))
    return tmp_path


def _pairs(files: Path, name: str) -> list[PromptSeed]:
    return load_pairs(**_data(f"data={name.partition('.')[0].partition('-')[0]}", f"data.prompts={files / name}"))


@pytest.mark.parametrize("name", ["drawbench-a.csv", "drawbench-b.csv", "drawbench-c.csv"])
def test_drawbench_in_every_spelling_has_the_same_ids(files: Path, name: str) -> None:
    pairs = _pairs(files, name)
    assert [(pair.prompt, pair.category) for pair in pairs] == [
        ("A violet kettle.", "Colors"),
        ("Two spoons, and a lid.", "Counting"),
        ("A sürprise", "Somebody et al."),
    ]
    assert [pair.pair_id for pair in pairs] == [pair.pair_id for pair in _pairs(files, "drawbench-a.csv")]
    assert pairs[0].pair_id.startswith("drawbench-00000-")


def test_common_syntactic_processes(files: Path) -> None:
    pairs = _pairs(files, "csp.csv")
    assert [pair.category for pair in pairs] == ["word_order", "word_order", "negation"]
    assert {pair.dataset for pair in pairs} == {"csp"}


def test_daily_dalle(files: Path) -> None:
    assert [pair.prompt for pair in _pairs(files, "daily_dalle.txt")] == ["a furry cloud, backlit", "a lamp’s dream"]


def test_parti_with_quotes_that_are_text_and_a_repetition(files: Path) -> None:
    with pytest.warns(UserWarning, match="left out 1 repeated prompts: '7'"):
        pairs = _pairs(files, "parti.tsv")
    assert [(pair.prompt, pair.category) for pair in pairs] == [
        ("7", "Abstract"),
        ('"Go" is on a flag', "Arts"),
        ("7", "Arts"),
    ]
    assert pairs[0].metadata == {"Challenge": "Basic", "Note": "numbers"}


def test_a_folder_will_do(files: Path) -> None:
    """A set copied to a folder for a machine without a network; the split that the configuration names is there."""
    folder = files / "copy"
    folder.mkdir()
    frame = pd.DataFrame({"prompts": ["A violet kettle.", "x"], "category": ["Colors", "Y"]})
    frame.to_parquet(folder / "test-00000-of-00001.parquet")
    pairs = load_pairs(**_data("data=drawbench", f"data.prompts={folder}"))
    assert [pair.category for pair in pairs] == ["Colors", "Y"]
    assert pairs[0].pair_id == _pairs(files, "drawbench-a.csv")[0].pair_id


@pytest.mark.parametrize(
    ("name", "source"), [("drawbench", "hub:Jialuo21/DrawBench"), ("parti", "hub:nateraw/parti-prompts")]
)
def test_sets_of_the_hub_compose_without_a_network(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _data(f"data={name}")
    assert (data["prompts"], data["name"]) == (source, name)
    assert _data("data=file", f"data.prompts={source}")["prompts"] == source
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=f"{source} is not in the cache .* Load it once where there is a network"):
        load_pairs(**data)


@pytest.mark.parametrize("name", ["csp", "daily_dalle"])
def test_sets_without_a_place_on_the_hub_ask_for_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match=r"`data.prompts`: has no value yet; give one with data.prompts=VALUE"):
        load_config([f"data={name}"])


def test_a_choice_of_seeds_and_filters_on_top(files: Path) -> None:
    path = f"data.prompts={files / 'drawbench-b.csv'}"
    data = _data("data=drawbench", path, "data.seeds=2", "data.indices=1:", "data.categories=[somebody et al.]")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [(pair.index, pair.seed) for pair in load_pairs(**data)] == [(2, 0), (2, 1)]
