"""Prompts times seeds."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from sgool.config import load_config, to_plain
from sgool.errors import ConfigError
from sgool.prompts import PromptRow, expand_pairs, load_pairs


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


def test_repeated_prompts_are_left_out_and_no_id_changes() -> None:
    plain = {pair.prompt: pair.pair_id for pair in expand_pairs(["a", "b", "c"])}
    with pytest.warns(UserWarning, match="left out 2 repeated prompts: 'a', 'a'"):
        pairs = expand_pairs(["a", "b", "a", "c", "a"])
    assert [(pair.prompt, pair.index) for pair in pairs] == [("a", 0), ("b", 1), ("c", 3)]
    assert pairs[0].pair_id == plain["a"] and pairs[1].pair_id == plain["b"]


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


def test_an_unknown_category_lists_those_there_are(prompts: Path) -> None:
    with pytest.raises(ConfigError, match="no category 'colours' or 'text'; they have colors, Counting"):
        load_pairs(prompts, categories=["Text", "Colours"])


def test_the_name_of_the_data_set(prompts: Path) -> None:
    assert load_pairs(prompts)[0].dataset == "My set"
    assert load_pairs(prompts, name="other")[0].dataset == "other"
    assert load_pairs("emoji_world/demo")[0].dataset == "emoji_world-demo"


def test_the_configuration_section_is_the_arguments() -> None:
    data = to_plain(load_config(["data.limit=3", "data.seeds=[4]"]))["data"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = load_pairs(**data)
    assert [(pair.seed, pair.dataset) for pair in pairs] == [(4, "emoji_world-demo")] * 3
