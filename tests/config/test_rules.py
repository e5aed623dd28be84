"""The rules for single values."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgool.config.rules import (
    MISSING,
    Each,
    Rule,
    Variants,
    check,
    choice,
    either,
    flag,
    integer,
    list_of,
    matching,
    number,
    optional,
    text,
)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (integer(1), [1, 10**20], [0, -1, 1.0, "1", True, None]),
        (number(above=0, most=1), [1, 0.5, 1e-9], [0, 1.01, math.nan, math.inf, "0.5", True, None]),
        (number(least=0, below=1), [0, 0.99], [1, -0.1]),
        (number(), [-3, 2.5], [math.inf, "x"]),
        (flag(), [True, False], [0, 1, "true", None]),
        (text(), ["a"], ["", "  ", 1, None]),
        (text(empty=True), ["", "a"], [None]),
        (choice("a", "b"), ["a", "b"], ["c", None, ["a"]]),
        (matching(r"cuda(:\d+)?", "a device"), ["cuda", "cuda:3"], ["cuda:", "xcuda", 3]),
        (list_of(integer(0)), [[0], [1, 2]], [[], [-1], 3, (1,)]),
        (list_of(text(), at_least=0), [[]], [[1]]),
        (either(integer(1), choice("auto")), [2, "auto"], [0, "all"]),
        (optional(integer(1)), [None, 1], [0]),
    ],
)
def test_values(rule: Rule, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not rule.accepts(value)] == []
    assert [value for value in bad if rule.accepts(value)] == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (number(), "a number"),
        (number(above=0.5, most=1), "a number above 0.5 and at most 1"),
        (choice("a"), "a"),
        (choice("a", "b", "c"), "a, b or c"),
        (optional(flag()), "true or false, or null"),
        (list_of(integer(0)), "a list that is not empty, each entry a whole number of at least 0"),
        (list_of(integer(0), at_least=2), "a list of at least 2, each entry a whole number of at least 0"),
    ],
)
def test_what_is_expected_is_said_in_words(rule: Rule, words: str) -> None:
    assert rule.expected == words


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_value_is_judged_without_an_exception(value: Any) -> None:
    schema = {
        "a": either(integer(1), list_of(number(least=0))),
        "b": Each(choice("x", "y"), at_least=1),
        "c": Variants("name", {"one": {"k": flag()}}),
    }
    problems = check({"a": value, "b": value, "c": value}, schema)
    # None of the generated values can satisfy `c`, whose names are fixed and never drawn together.
    assert any(problem.key.startswith("c") for problem in problems)


def test_nested_problems_carry_their_dotted_keys() -> None:
    schema = {"a": {"b": integer(1), "c": flag()}, "named": Each({"w": number()}, at_least=1)}
    problems = check({"a": {"b": 0, "d": 1}, "named": {"x": {"w": "heavy"}}, "more": 1}, schema)
    assert sorted(problem.key for problem in problems) == ["a.b", "a.c", "a.d", "more", "named.x.w"]


def test_variants_follow_their_key() -> None:
    schema = {"s": Variants("name", {"ddim": {"n": integer(1)}, "edict": {"n": integer(1), "p": number()}})}
    assert check({"s": {"name": "ddim", "n": 1}}, schema) == []
    assert [p.key for p in check({"s": {"name": "ddim", "n": 1, "p": 1}}, schema)] == ["s.p"]
    assert [p.key for p in check({"s": {"name": "edict", "n": 1}}, schema)] == ["s.p"]
    (problem,) = check({"s": {"name": "edit"}}, schema)
    assert problem == ("s.name", "`s.name`: expected ddim or edict, got 'edit'; did you mean `edict`?")


@pytest.mark.parametrize(
    ("value", "match"),
    [(MISSING, "has no value yet"), (3, "expected a mapping, got 3"), ({}, "at least 1 named entry, got 0")],
)
def test_mappings(value: Any, match: str) -> None:
    (problem,) = check({"named": value}, {"named": Each(flag(), at_least=1)})
    assert match in problem.text


def test_what_users_write_in_another_way_is_not_offered() -> None:
    schema = {"s": Variants("name", {"ddim": {}, "edict": {}, "custom": {"n": integer(1)}}, unlisted=("custom",))}
    (problem,) = check({"s": {"name": "custo"}}, schema)
    assert problem.text == "`s.name`: expected ddim or edict, got 'custo'"
    assert check({"s": {"name": "custom", "n": 1}}, schema) == []
