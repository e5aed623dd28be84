"""Prompts times seeds."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any

import pytest

from sgool.errors import ConfigError
from sgool.prompts import PromptRow, expand_pairs, load_data, load_pairs
from sgool.run.config import load_config, to_plain
from sgool.types import PromptSeed


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Four prompts in three categories."""
    path = tmp_path / "My set.csv"
    path.write_text("prompt,category\na,Colors\nb,Counting \nc,colors\nd,\n", encoding="utf-8")
    return path


def test_every_prompt_with_every_seed() -> None:
    pairs = expand_pairs(["a", " b "], [5, 3], dataset="set", negative_prompt="blurry")
    assert [(p.prompt, p.seed, p.index) for p in pairs] == [("a", 5, 0), ("a", 3, 0), ("b", 5, 1), ("b", 3, 1)]
    assert {(p.dataset, p.negative_prompt) for p in pairs} == {("set", "blurry")}


def test_a_number_of_seeds_counts_from_zero() -> None:
    assert [pair.seed for pair in expand_pairs(["a"], 3)] == [0, 1, 2]


def test_rows_keep_their_category_and_metadata() -> None:
    (pair,) = expand_pairs([PromptRow("a", 7, "Colors", {"scene": {"n": 1}})])
    assert (pair.index, pair.category, pair.metadata) == (7, "Colors", {"scene": {"n": 1}})


def test_a_prompt_that_is_given_twice_has_two_ids() -> None:
    pairs = expand_pairs(["a", "b", "a"])
    assert [(pair.prompt, pair.index) for pair in pairs] == [("a", 0), ("b", 1), ("a", 2)]
    assert len({pair.pair_id for pair in pairs}) == 3


def test_repeated_seeds_are_left_out() -> None:
    with pytest.warns(UserWarning, match="left out 1 repeated seeds"):
        assert [pair.seed for pair in expand_pairs(["a"], [2, 1, 2])] == [2, 1]


@pytest.mark.parametrize("seeds", [0, -1, [], [-1], [2**63], [1.0], [True], ["1"], "12", True, None, 1.5])
def test_seeds_that_no_generator_takes(seeds: Any) -> None:
    with pytest.raises(ConfigError, match=r"`data\.seeds`: expected"):
        expand_pairs(["a"], seeds)


def test_a_file_becomes_pairs(prompts: Path) -> None:
    pairs = load_pairs(prompts, seeds=2, limit=5)
    assert [(p.prompt, p.seed) for p in pairs] == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0)]
    assert pairs[0].pair_id.startswith("my-set-00000-")


def test_filters_do_not_change_ids(prompts: Path) -> None:
    everything = {pair.prompt: pair.pair_id for pair in load_pairs(prompts)}
    some = load_pairs(prompts, categories=" COLORS")
    assert [pair.prompt for pair in some] == ["a", "c"]
    assert all(pair.pair_id == everything[pair.prompt] for pair in some)
    assert [pair.prompt for pair in load_pairs(prompts, categories=["counting", "colors"])] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("indices", "prompts_left"),
    [("1:3", "bc"), ("2:", "cd"), (":2", "ab"), (":", "abcd"), ("3:99", "d"), ([2, 0], "ac"), ([3, 3], "d")],
)
def test_indices_are_places_in_the_file(prompts: Path, indices: Any, prompts_left: str) -> None:
    everything = load_pairs(prompts)
    some = load_pairs(prompts, indices=indices)
    assert "".join(pair.prompt for pair in some) == prompts_left
    assert set(some) <= set(everything)


def test_indices_come_before_categories_and_limit(prompts: Path) -> None:
    assert [pair.index for pair in load_pairs(prompts, indices="1:4", categories="colors")] == [2]
    assert [pair.index for pair in load_pairs(prompts, indices="1:4", seeds=2, limit=3)] == [1, 1, 2]
    with pytest.raises(ConfigError, match=r"`data.indices` and `data.categories`: together they leave no prompt"):
        load_pairs(prompts, indices="1:2", categories="colors")


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ("4:9", r"'4:9' has no prompt in it; the file's go from 0 to 3"),
        ("3:1", "'3:1' has no prompt in it"),
        ("1", "expected a range START:STOP or a list of indices, got '1'"),
        ([0, 4, -1], "expected whole numbers from 0 to 3, the file's last prompt, got 4, -1"),
        ([], "got an empty list"),
    ],
)
def test_indices_that_the_file_does_not_have(prompts: Path, indices: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_pairs(prompts, indices=indices)


def test_wrong_filters_are_reported_together(prompts: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_pairs(prompts, indices="9:", categories="none")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["`data.indices`", "`data.categories`"]


def test_an_unknown_category_lists_those_there_are(prompts: Path) -> None:
    with pytest.raises(ConfigError, match="no category 'colours' or 'text'; they have colors, Counting"):
        load_pairs(prompts, categories=["Text", "Colours"])


def test_the_name_of_the_data_set(prompts: Path) -> None:
    assert load_pairs(prompts)[0].dataset == "My set"
    assert load_pairs(prompts, name="other")[0].dataset == "other"
    packed = prompts.with_name("packed.csv.gz")
    packed.write_bytes(gzip.compress(prompts.read_bytes()))
    assert load_pairs(packed)[0].dataset == "packed"
    assert load_pairs("emoji_world/demo")[0].dataset == "emoji_world-demo"


def test_the_configuration_section_is_the_arguments() -> None:
    data = to_plain(load_config(["data.limit=3", "data.seeds=[4]"]))["data"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = load_pairs(**data)
    assert [(pair.seed, pair.dataset) for pair in pairs] == [(4, "emoji_world-demo")] * 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.indices=10:50", "10:50"),
        ("data.indices=10:", "10:"),
        ("data.indices=[3,1]", [3, 1]),
        ("data.prompt_column=Title", "Title"),
        ("data.duplicates=drop", "drop"),
        ("data.split=test", "test"),
        ("data.revision=refs/convert/parquet", "refs/convert/parquet"),
    ],
)
def test_new_keys_can_be_given_on_the_command_line(override: str, expected: Any) -> None:
    key = override.partition("=")[0].removeprefix("data.")
    assert to_plain(load_config([override]))["data"][key] == expected


def test_wrong_values_are_reported_together_before_any_file_is_read() -> None:
    wrong = ["data.duplicates=yes", "data.indices=650", "data.split=''", "data.prompt_column=[a]", "data.limit=0"]
    with pytest.raises(ConfigError) as caught:
        load_config(wrong)
    keys = sorted(problem.partition(":")[0] for problem in caught.value.problems)
    assert keys == ["`data.duplicates`", "`data.indices`", "`data.limit`", "`data.prompt_column`", "`data.split`"]
    assert any("a range such as '10:50'" in problem for problem in caught.value.problems)


@pytest.fixture
def own_seeds(tmp_path: Path) -> Path:
    path = tmp_path / "own.csv"
    path.write_text("prompt,seed,negative_prompt\na,7,blurry\nb,,\nc,0,\n")
    return path


def test_a_prompt_with_a_seed_of_its_own_is_run_with_that_one_alone(own_seeds: Path) -> None:
    with pytest.warns(UserWarning, match=r"`data.seeds` \(4, 5\) counts for 1 of 3 prompts: the others have a seed"):
        pairs = load_pairs(own_seeds, seeds=[4, 5], negative_prompt="ugly")
    assert [(pair.prompt, pair.seed, pair.negative_prompt) for pair in pairs] == [
        ("a", 7, "blurry"),
        ("b", 4, "ugly"),
        ("b", 5, "ugly"),
        ("c", 0, "ugly"),
    ]
    assert [pair.pair_id for pair in pairs] == [
        PromptSeed("a", 7, 0, dataset="own", negative_prompt="blurry").pair_id,
        PromptSeed("b", 4, 1, dataset="own", negative_prompt="ugly").pair_id,
        PromptSeed("b", 5, 1, dataset="own", negative_prompt="ugly").pair_id,
        PromptSeed("c", 0, 2, dataset="own", negative_prompt="ugly").pair_id,
    ]
    assert [pair.seed for pair in load_pairs(own_seeds, seeds=[4, 5], seed_column="")] == [4, 5] * 3


def test_what_belongs_to_a_data_set_does_not_depend_on_what_is_chosen_of_it(own_seeds: Path) -> None:
    data = load_data(own_seeds, seeds=[4], limit=1, indices=[1])
    assert [pair.prompt for pair in data.pairs] == ["b"]
    assert data.notes == ()  # of the chosen prompts none has a seed of its own
    ids = [pair.pair_id for pair in load_pairs(own_seeds, seeds=[9], seed_column="")]
    assert [name in data.ids for name in ids] == [False, True, False]  # the others' own seeds are 7 and 0
    assert all(pair.pair_id in data.ids for pair in load_pairs(own_seeds))
    assert PromptSeed("b", 9, 2, dataset="own").pair_id not in data.ids  # another place in the file
    assert PromptSeed("b", 9, 1, dataset="own", negative_prompt="x").pair_id not in data.ids


def test_the_notes_of_a_run_are_the_warnings(own_seeds: Path) -> None:
    data = load_data(own_seeds, seeds=[4, 5])
    (note,) = data.notes
    assert note.startswith("`data.seeds` (4, 5) counts for 1 of 3 prompts")


def test_a_pair_that_two_rows_make_is_one_problem(tmp_path: Path) -> None:
    """A row's own seed may be the one that `data.seeds` gives to another row of the same prompt."""
    path = tmp_path / "p.csv"
    path.write_text("prompt,seed\na green cat,1\na green cat,\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="counts for 1 of 2 prompts"):
        with pytest.raises(ConfigError, match="'a green cat' with seed 1 stands twice, as prompts 0 and 1"):
            load_pairs(path, seeds=[1, 2])
        dropped = load_pairs(path, seeds=[1, 2], duplicates="drop")
        kept = load_pairs(path, seeds=[1, 2], duplicates="keep")
    assert [(pair.index, pair.seed) for pair in dropped] == [(0, 1), (1, 2)]
    assert [(pair.index, pair.seed) for pair in kept] == [(0, 1), (1, 1), (1, 2)]
    assert [(pair.index, pair.seed) for pair in load_pairs(path, seeds=[3])] == [(0, 1), (1, 3)]
