"""Who sees what: complete, balanced, the same at every call."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sgool.study.plan import Facts, choose, make_forms


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[Facts], int, int, int]:
    """Comparisons of up to 6 method pairs on up to 8 pairs, some missing; checks; comparisons per rater; a seed."""
    couples = draw(st.lists(st.sampled_from(["ab", "ac", "ad", "bc", "bd", "cd"]), min_size=1, max_size=6, unique=True))
    facts = [Facts(couple, pair) for pair in range(draw(st.integers(1, 8))) for couple in couples]
    kept = [one for one in facts if draw(st.integers(0, 9))] or facts
    return kept, draw(st.integers(0, 6)), draw(st.integers(1, 60)), draw(st.integers(0, 2**32))


@settings(max_examples=120, deadline=None)
@given(plans())
def test_forms_are_complete_and_balanced(plan: tuple[list[Facts], int, int, int]) -> None:
    facts, checks, per_rater, seed = plan
    forms = make_forms(facts, checks, per_rater, seed, ["r1", "r2", "r3", "r4"])
    sizes = Counter(one.methods for one in facts)
    for form in forms:
        items = [step.item for step in form]
        compared = [step for step in form if step.item < len(facts)]
        assert len(items) == len(set(items))
        assert len(compared) == min(per_rater, len(facts))
        assert sorted(item for item in items if item >= len(facts)) == list(range(len(facts), len(facts) + checks))
        seen = Counter(facts[step.item].methods for step in compared)
        most = max(seen.values())
        # A method pair appears less often than another, by more than one, only where it has no more comparisons.
        assert all(seen[methods] >= min(most - 1, size) for methods, size in sizes.items())
        for methods in seen:
            sides = Counter(step.swapped for step in compared if facts[step.item].methods == methods)
            assert abs(sides[True] - sides[False]) <= 1
    for methods in sizes:
        used = Counter(step.item for form in forms for step in form if step.item < len(facts))
        times = [used[item] for item, one in enumerate(facts) if one.methods == methods]
        assert max(times) - min(times) <= 1


@settings(max_examples=30, deadline=None)
@given(plans())
def test_the_same_seed_and_rater_give_the_same_form(plan: tuple[list[Facts], int, int, int]) -> None:
    assert make_forms(*plan, ["r1"]) == make_forms(*plan, ["r1"])


def test_another_seed_or_rater_gives_another_form() -> None:
    facts = [Facts("ab", pair) for pair in range(30)]
    (one,), (other,), (third,) = (make_forms(facts, 2, 20, *who) for who in ((0, ["r1"]), (0, ["r2"]), (1, ["r1"])))
    assert one != other
    assert one != third


def test_checks_are_spread_and_never_come_first() -> None:
    facts = [Facts("ab", pair) for pair in range(30)]
    for seed in range(20):
        (form,) = make_forms(facts, 3, 30, seed, ["r"])
        places = [place for place, step in enumerate(form) if step.item >= 30]
        assert [place // 11 for place in places] == [0, 1, 2]  # one in each third of 33 steps
        assert places[0] >= 2


def test_a_form_prefers_prompts_that_it_has_not_shown() -> None:
    facts = [Facts(couple, pair) for couple in ("ab", "ac", "bc") for pair in range(9)]
    (form,) = make_forms(facts, 0, 9, 0, ["r"])
    assert len({facts[step.item].pair for step in form}) == 9


def test_drawn_pairs_keep_their_order() -> None:
    names = [f"p{number:02}" for number in range(40)]
    chosen = choose(names, 10, seed=3)
    assert chosen == sorted(chosen) == choose(names, 10, seed=3)
    assert len(set(chosen)) == 10
    assert choose(names, 10, seed=4) != chosen
    assert choose(names, None, 0) == choose(names, 99, 0) == names
