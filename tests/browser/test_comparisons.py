"""A report of many methods on two data sets with several baselines, in a real Chromium: its tables and its marks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sgool.report import build_report
from tests.browser.conftest import Keep
from tests.fake_run import fake_pairs, make_fake_run

METHODS = ("vanilla", "doodl", "sgool", *(f"method-{number}" for number in range(9)))
PROMPTS = [(f"prompt {number}", "even" if number % 2 else "odd") for number in range(7)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("comparisons")
    pairs = fake_pairs(PROMPTS, (0,))
    others = [type(pair)(pair.prompt, pair.seed, pair.index, pair.category, "Other") for pair in pairs]
    one = make_fake_run(folder / "one", methods=METHODS, pairs=pairs)
    two = make_fake_run(folder / "two", methods=METHODS[:3], pairs=others, failed={("sgool", 0): "no"})
    return build_report([one.path, two.path], folder / "out", against=["vanilla", "doodl"]).as_uri()


def table(page: Any, caption: str) -> Any:
    return page.locator("table", has=page.locator("caption", has_text=caption)).first


def test_look(new_page: Callable[..., Any], url: str, keep: Keep) -> None:
    for theme in ("light", "dark"):
        page = new_page(color_scheme=theme)
        page.goto(url)
        assert keep(page, f"comparisons-{theme}", full_page=True).stat().st_size > 10_000
    phone = new_page(viewport={"width": 390, "height": 844})
    phone.goto(url)
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_all_scores_in_one_table(page: Any, url: str) -> None:
    page.goto(url)
    combined = table(page, "Scores by data set and method")
    heads = combined.locator("thead th[scope=colgroup]")
    assert heads.all_text_contents() == ["fake, 7 pairs", "other, 7 pairs"]
    assert [head.get_attribute("colspan") for head in heads.all()] == ["2", "2"]
    rows = combined.locator("tbody tr")
    assert [text.strip() for text in rows.locator("th").all_text_contents()] == list(METHODS)
    assert "(6)" in rows.nth(2).text_content()
    assert rows.nth(5).locator("td").all_text_contents()[2:] == ["–", "–"]  # it ran on one of them


def test_a_group_of_rows_for_each_baseline_and_data_set(page: Any, url: str) -> None:
    page.goto(url)
    scores = table(page, "Judge CLIP score per method")
    groups = scores.locator("tbody")
    heads = [" ".join(text.split()) for text in groups.locator("tr.group").all_text_contents()]
    assert heads == [
        f"Difference to {name}, on {dataset} 7 pairs" for name in ("vanilla", "doodl") for dataset in ("fake", "other")
    ]
    names = [[text.strip() for text in group.locator("th[scope=row]").all_text_contents()] for group in groups.all()]
    without = [name for name in METHODS if name != "doodl"]
    assert names == [list(METHODS), list(METHODS[:3]), without, ["vanilla", "sgool"]]


def test_methods_beyond_the_colours_have_other_marks(page: Any, url: str) -> None:
    page.goto(url)
    marks = table(page, "Scores by data set and method").locator("tbody .swatch")
    looks = marks.evaluate_all(
        "found => found.map((e) => { const s = getComputedStyle(e); return s.borderColor + s.backgroundColor; })"
    )
    assert len(set(looks)) == len(METHODS)
    assert [marks.nth(k).get_attribute("data-turn") for k in (0, 7, 8, 11)] == ["0", "0", "1", "1"]
    page.locator("#pairs").scroll_into_view_if_needed()
    in_gallery = page.locator("#gallery .pair").first.locator("figcaption .swatch")
    assert [in_gallery.nth(k).get_attribute("data-turn") for k in (0, 11)] == ["0", "1"]


def test_the_gallery_begins_with_a_method_that_is_compared(page: Any, tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(PROMPTS[:2], (0,)))
    page.goto(build_report([run.path], against=["sgool", "vanilla"]).as_uri())
    chosen = [page.locator(f"#controls [name={name}] option:checked").text_content() for name in ("a", "b")]
    assert chosen == ["doodl", "sgool"]


def test_headings_and_tables_for_those_who_listen(page: Any, url: str) -> None:
    page.goto(url)
    levels = page.eval_on_selector_all("main h1, main h2, main h3, main h4", "f => f.map((e) => Number(e.tagName[1]))")
    assert levels[0] == 2 and all(after <= before + 1 for before, after in pairwise(levels))
    for found in page.locator("main table").all():
        assert found.locator("caption").text_content().strip()
        assert found.locator("thead th:not([scope]), tbody th:not([scope])").count() == 0


def test_the_focus_is_seen(page: Any, url: str) -> None:
    """A panel hides what sticks out of it: the outline of a table that scrolls lies within."""
    page.goto(url)
    region = page.locator(".panel .scroll").first
    page.keyboard.press("Tab")
    region.focus()
    style = region.evaluate("(e) => { const s = getComputedStyle(e); return [s.outlineStyle, s.outlineOffset]; }")
    assert style == ["solid", "-2px"]


@pytest.mark.parametrize(("choice", "seconds"), [("no-preference", "0.15s"), ("reduce", "0s")])
def test_nothing_moves_for_those_who_ask(new_page: Callable[..., Any], url: str, choice: str, seconds: str) -> None:
    page = new_page(reduced_motion=choice)
    page.goto(url)
    page.locator("#pairs").scroll_into_view_if_needed()
    over = page.locator("#gallery .over").first
    assert over.evaluate("(e) => getComputedStyle(e).transitionDuration") == seconds
