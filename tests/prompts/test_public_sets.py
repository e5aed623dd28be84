"""The configurations of public prompt sets, on invented prompts with the quirks of the public files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sgool.errors import ConfigError
from sgool.metrics.geneval_rules import Wanted
from sgool.objectives.questions import ColumnQuestions
from sgool.prompts import load_pairs
from sgool.prompts.text_folders import text_files
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
    "geneval.jsonl": '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"}\n'
    '{"tag": "position", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": '
    '["above", 0]}], "prompt": "a photo of a cat above a dog"}\n',
    "geneval2.jsonl": '{"prompt": "two red pigs", "atom_count": 3, "vqa_list": [["How many pigs are in the image?", '
    '"two"], ["Are the pigs red?", "Yes"]], "skills": ["count", "attribute"]}\n',
}
#: Folders of benchmarks that publish plain prompts.
_FOLDERS = {
    "t2i_compbench": {"color_val.txt": "a green mug\na red spoon\na green mug\n", "shape_val.txt": "a round mug\n"},
    "dpg": {"10.txt": "A long text, in one line.", "9.txt": "Another\n", "COCOval2014000000001.txt": "A third"},
    "hpsv2": {"anime.json": '["a girl", "a ship"]', "concept-art.json": '[\n "a ship"]', "README.md": "of somebody"},
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


def test_geneval_with_what_its_judge_checks(files: Path) -> None:
    bench, cat = _pairs(files, "geneval.jsonl")
    assert (bench.prompt, bench.category, cat.category) == ("a bench", "single_object", "position")
    rule = Wanted.of(cat, "j")
    assert (rule.tag, rule.classes, rule.include[1]["position"]) == ("position", ["dog", "cat"], ["above", 0])


def test_geneval_2_with_its_questions(files: Path) -> None:
    (pigs,) = _pairs(files, "geneval2.jsonl")
    assert (pigs.category, pigs.dataset, pigs.metadata["skills"]) == ("3", "geneval2", ["count", "attribute"])
    first, second = ColumnQuestions(None, "{}", "j")(pigs)
    assert (first.question, first.answers[0], second.answers[0]) == ("How many pigs are in the image?", "two", "Yes")


def _folder(path: Path, name: str) -> Path:
    folder = path / name
    folder.mkdir()
    for file, text in _FOLDERS[name].items():
        (folder / file).write_bytes(text.encode())
    return folder


@pytest.mark.parametrize("name", list(_FOLDERS))
def test_folders_of_plain_prompts(tmp_path: Path, name: str) -> None:
    """No library is needed; the files' names are the column `file`."""
    expected = {
        "t2i_compbench": [("a green mug", "color_val"), ("a red spoon", "color_val"), ("a round mug", "shape_val")],
        "dpg": [("A long text, in one line.", ""), ("Another", ""), ("A third", "")],
        "hpsv2": [("a girl", "anime"), ("a ship", "anime"), ("a ship", "concept-art")],
    }[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairs = load_pairs(**_data(f"data={name}", f"data.prompts={_folder(tmp_path, name)}"))
    assert [(pair.prompt, pair.category) for pair in pairs] == expected
    assert {pair.dataset for pair in pairs} == {name}
    assert ["left out 1 repeated prompts" in str(w.message) for w in caught] == [True] * (name == "t2i_compbench")
    if name == "dpg":
        assert [pair.metadata["file"] for pair in pairs] == ["10", "9", "COCOval2014000000001"]


def test_problems_of_a_folder_name_the_file(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "dpg")
    (folder / "9.txt").write_bytes(b"fine\nb\xe4d\n")
    (folder / "10.txt").write_text("a" * 2001)
    with pytest.raises(ConfigError) as caught:
        load_pairs(folder)
    assert "9.txt, line 2: expected UTF-8, got the byte 0xe4" in str(caught.value)
    assert "item 1: 2001 characters" in str(caught.value)
    hps = _folder(tmp_path, "hpsv2")
    (hps / "anime.json").write_text('["a girl", ')
    with pytest.raises(ConfigError, match=r"anime.json: malformed JSON"):
        load_pairs(hps)


def test_a_folder_with_a_split_is_a_data_set(tmp_path: Path) -> None:
    """As before: the library makes splits of the files' names."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "train.txt").write_text("one\n")
    (folder / "test.txt").write_text("two\n")
    assert [pair.prompt for pair in load_pairs(folder, split="test")] == ["two"]
    assert [pair.prompt for pair in load_pairs(folder)] == ["two", "one"]
    (folder / "more.csv").write_text("prompt\nthree\n")
    assert text_files(folder) == [] and text_files(tmp_path / "none") == []


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


@pytest.mark.parametrize("name", ["csp", "daily_dalle", *_FOLDERS, "geneval", "geneval2"])
def test_sets_without_a_place_on_the_hub_ask_for_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match=r"`data.prompts`: has no value yet; give one with data.prompts=VALUE"):
        load_config([f"data={name}"])


def test_a_choice_of_seeds_and_filters_on_top(files: Path) -> None:
    path = f"data.prompts={files / 'drawbench-b.csv'}"
    data = _data("data=drawbench", path, "data.seeds=2", "data.indices=1:", "data.categories=[somebody et al.]")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [(pair.index, pair.seed) for pair in load_pairs(**data)] == [(2, 0), (2, 1)]
