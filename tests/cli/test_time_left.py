"""The time left of a run, by a clock that the test moves."""

from __future__ import annotations

import pytest

from sgool.cli.time_left import TimeLeft
from sgool.run.progress import Work


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def begun(*work: Work) -> tuple[TimeLeft, Clock]:
    clock = Clock()
    return TimeLeft(work, clock), clock


def test_nothing_is_known_before_the_first_update() -> None:
    left, clock = begun(Work("doodl", 3))
    left.batch("doodl", 1)
    clock.now = 5
    assert left.seconds() is None


def test_the_updates_of_the_first_batch_tell() -> None:
    left, clock = begun(Work("doodl", 3))
    left.batch("doodl", 1)
    clock.now = 10
    left.update(1, 4)
    # An update takes 10 s: three more of this pair, and four of each of two pairs.
    assert left.seconds() == pytest.approx(3 * 10 + 2 * 4 * 10)
    clock.now = 14  # it counts down during an update, and does not go up while one takes longer
    assert left.seconds() == pytest.approx(3 * 10 + 2 * 4 * 10 - 4)
    clock.now = 25
    assert left.seconds() == pytest.approx(3 * 10 + 2 * 4 * 10 - 10)
    clock.now = 40
    left.update(4, 4)
    assert left.seconds() == pytest.approx(80)
    clock.now = 44  # the last evaluation and the judges
    left.done("doodl")
    assert left.seconds() == pytest.approx(2 * 44)
    left.batch("doodl", 1)
    assert left.seconds() == pytest.approx(2 * 44)


def test_pairs_of_a_batch_share_its_time() -> None:
    left, clock = begun(Work("doodl", 8))
    left.batch("doodl", 4)
    clock.now = 10
    left.update(1, 4)
    assert left.seconds() == pytest.approx(30 + 40)
    clock.now = 40
    for _ in range(4):
        left.done("doodl")
    assert left.seconds() == pytest.approx(40)


def test_a_method_that_has_not_begun_is_expected_to_take_its_cost() -> None:
    left, clock = begun(Work("vanilla", 2, 1), Work("doodl", 2, 49))
    for end in (1, 2):
        left.batch("vanilla", 1)
        clock.now = end
        left.done("vanilla")
    assert left.seconds() == pytest.approx(2 * 49)
    left.batch("doodl", 1)
    clock.now = 4  # an update takes 2 s: what is measured counts
    left.update(1, 10)
    assert left.seconds() == pytest.approx(9 * 2 + 20)


def test_a_batch_that_is_resumed_is_timed_by_the_updates_of_this_start() -> None:
    left, clock = begun(Work("doodl", 2))
    left.batch("doodl", 1)
    clock.now = 3
    left.update(8, 10)
    assert left.seconds() == pytest.approx(2 * 3 + 10 * 3)
    clock.now = 9
    left.update(10, 10)
    left.done("doodl")
    left.batch("doodl", 1)
    clock.now = 12
    left.update(1, 10)
    assert left.seconds() == pytest.approx(9 * 3)


def test_all_done_is_no_time() -> None:
    left, clock = begun(Work("vanilla", 1))
    left.batch("vanilla", 1)
    clock.now = 2
    left.done("vanilla")
    assert left.seconds() == 0
