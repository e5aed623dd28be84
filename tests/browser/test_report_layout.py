"""How the report lies on the screen, in a real Chromium: edges, heights, folds, sizes, phones, paper."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sgool.report import build_report
from tests.browser.conftest import Keep, until
from tests.fake_run import fake_config, fake_pairs, make_fake_run

SIX = ("vanilla", "clip_guidance", "doodl", "sgool", "reno", "best_of_n")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WORDS = ("a fish above a purple mushroom", "two green cats", "a red car", "an astronaut riding a horse")
CONFIG = fake_config(saliency={"detector": {"name": "spectral_residual"}})


def pairs_of(count: int) -> list[Any]:
    return fake_pairs([(f"{WORDS[k % 4]}, number {k}", WORDS[k % 4].split()[-1]) for k in range(count)], (0,))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight pairs by three methods, all of which ended well."""
    folder = tmp_path_factory.mktemp("eight") / "run"
    return build_report([make_fake_run(folder, pairs=pairs_of(8), config=CONFIG, snapshots=(1,)).path]).as_uri()


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> str:
    """30 pairs by six methods, of which two failed; so many that not all stand in the page."""
    failed = {("doodl", 3): "non-finite loss", ("reno", 3): "out of memory"}
    folder = tmp_path_factory.mktemp("six") / "run"
    return build_report([make_fake_run(folder, methods=SIX, pairs=pairs_of(30), failed=failed).path]).as_uri()


EDGES = """() => {
  const shown = [...document.querySelectorAll(
    '.top > *, .bar a:first-of-type, main > section h2, main > section > *, main .examples tbody th')]
    .filter((e) => e.checkVisibility() && e.getBoundingClientRect().width > 1);
  return shown.map((e) => [Math.round(e.getBoundingClientRect().left * 2) / 2, e.tagName + '.' + e.className]);
}"""


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
def test_one_left_edge(new_page: Callable[..., Any], url: str, width: int) -> None:
    page = new_page(viewport={"width": width, "height": 900})
    page.goto(url)
    found = page.evaluate(EDGES)
    assert len(found) > 25
    assert len({left for left, _ in found}) == 1, found
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def height(page: Any) -> int:
    return int(page.evaluate("document.documentElement.scrollHeight"))


def test_eight_pairs_are_few_screens(page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("#gallery .pair")
    assert page.locator("#gallery .pair").count() == 8
    assert height(page) < 4700
    page.evaluate("scrollTo(0, 1e6)")
    page.wait_for_timeout(300)
    assert height(page) < 4700


def test_eight_pairs_on_a_phone(new_page: Callable[..., Any], url: str) -> None:
    page = new_page(**PHONE)
    page.goto(url)
    page.wait_for_selector("#gallery .pair")
    assert height(page) < 7500


def test_one_pair_is_not_huge(page: Any, tmp_path: Path) -> None:
    page.goto(build_report([make_fake_run(tmp_path / "run", pairs=pairs_of(1), config=CONFIG).path]).as_uri())
    assert max(frame.bounding_box()["width"] for frame in page.locator(".frame").all()) < 200
    assert height(page) < 4000


def test_folds_hold_all_and_open(page: Any, url: str, keep: Keep) -> None:
    page.goto(url)
    assert page.locator(".drawing").count() >= 10
    assert page.locator(".drawing:visible").count() == 0
    first = page.locator("#figures").locator("xpath=../..").locator("details").first
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.locator(".drawing:visible").count() == 5
    page.click("[data-unfold=figures]")
    assert page.locator(".drawing:visible").count() == page.locator(".drawing").count()
    assert page.inner_text("[data-unfold=figures]") == "Close all"
    keep(page, "report-figures", full_page=True)
    page.click("[data-unfold=figures]")
    assert page.locator(".drawing:visible").count() == 0
    for name in ("categories", "reading"):
        page.click(f"[data-unfold={name}]")
        section = page.locator(f"#{name}").locator("xpath=../..")
        assert section.locator("details:not([open])").count() == 0


def test_without_javascript_the_folds_open(new_page: Callable[..., Any], url: str) -> None:
    page = new_page(java_script_enabled=False)
    page.goto(url)
    assert page.locator("[data-unfold]:visible").count() == 0  # a button without a script does nothing
    page.locator("details.fold summary", has_text="Over the updates").click()
    assert page.locator(".drawing:visible").count() == 2


class TestSize:
    def width(self, page: Any) -> float:
        page.wait_for_selector("#gallery .pair")
        return float(page.locator("#gallery .frame").first.bounding_box()["width"])

    def test_it_is_chosen_and_kept(self, page: Any, url: str) -> None:
        page.goto(url)
        sizes, heights = [], []
        for size in ("small", "medium", "large"):
            page.select_option("#controls [name=size]", size)
            sizes.append(self.width(page))
            heights.append(height(page))
        assert sizes[0] < 120 < sizes[1] < 220 < sizes[2]
        assert heights == sorted(heights) and heights[2] > 1.5 * heights[0]
        page.reload()
        assert page.input_value("#controls [name=size]") == "large"
        assert self.width(page) == sizes[2]
        page.keyboard.press("-")
        page.keyboard.press("-")
        page.keyboard.press("-")
        assert self.width(page) == sizes[0]
        page.keyboard.press("+")
        assert page.input_value("#controls [name=size]") == "medium"

    def test_without_storage_it_holds_until_the_page_is_closed(self, page: Any, url: str) -> None:
        page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } });")
        page.goto(url)
        small = self.width(page)
        page.select_option("#controls [name=size]", "medium")
        assert self.width(page) > small

    def test_the_row_that_is_read_stays(self, page: Any, six: str) -> None:
        page.goto(six)
        for _ in range(13):
            page.keyboard.press("j")
        page.keyboard.press("+")
        page.wait_for_timeout(300)
        seen = page.eval_on_selector_all(
            "#gallery .pair",
            "found => found.filter((e) => e.getBoundingClientRect().bottom > 60 && e.getBoundingClientRect().top < 900)"
            ".map((e) => Number(e.getAttribute('aria-posinset')))",
        )
        assert 7 <= min(seen) <= 13

    @pytest.mark.parametrize("options", [{}, PHONE])
    def test_small_has_the_compared_score_and_large_has_all(
        self, new_page: Callable[..., Any], six: str, options: dict
    ) -> None:
        page = new_page(**options)
        page.goto(six)
        page.locator("#pairs").scroll_into_view_if_needed()
        page.wait_for_selector("#gallery .pair")
        scores = page.locator("#gallery .pair").first.locator(".cell[data-method='3'] .score:visible")
        assert scores.count() == 1
        shown = scores.first.locator("b").inner_text()
        page.select_option("#controls [name=metric]", label="Guide CLIP score (optimised against)")
        until(page, "document.querySelector('#gallery .chosen .what')?.textContent.startsWith('Guide')")
        assert scores.count() == 1 and scores.first.locator("b").inner_text() != shown
        page.select_option("#controls [name=size]", "large")
        assert scores.count() == 3
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


class TestAxis:
    def test_numbers_stand_where_they_belong(self, page: Any, url: str) -> None:
        page.goto(url)
        table = page.locator("table.results").first
        ticks = table.locator("thead .tick").all()
        assert len(ticks) >= 2
        places = [box["x"] + box["width"] / 2 for box in (tick.bounding_box() for tick in ticks)]
        values = [float(tick.inner_text().replace("−", "-")) for tick in ticks]
        assert 0.0 in values and values == sorted(values)
        unit = (places[-1] - places[0]) / (values[-1] - values[0])
        zero = table.locator("tbody .zero").first.bounding_box()
        assert zero["x"] + 0.5 == pytest.approx(places[values.index(0.0)], abs=1)
        for row in table.locator("tbody tr").all()[1:]:
            difference = float(row.locator("td").nth(3).locator("b").inner_text().replace("−", "-"))
            dot = row.locator(".dot").bounding_box()
            place = places[values.index(0.0)] + difference * unit
            assert dot["x"] + dot["width"] / 2 == pytest.approx(place, abs=1.5)
        assert "difference" in table.locator("thead .axis").inner_text()

    @pytest.mark.parametrize("options", [{}, PHONE, {"viewport": {"width": 1000, "height": 800}}])
    def test_numbers_do_not_touch(self, new_page: Callable[..., Any], six: str, options: dict) -> None:
        page = new_page(**options)
        page.goto(six)
        page.evaluate("document.querySelectorAll('details').forEach((e) => (e.open = true))")
        for table in page.locator("table.results").all():
            boxes = [tick.bounding_box() for tick in table.locator("thead .tick").all()]
            assert len(boxes) >= 2
            for left, right in pairwise(boxes):
                assert left["x"] + left["width"] + 2 < right["x"]


class TestPhone:
    @pytest.mark.parametrize("width", [320, 390])
    def test_no_part_of_the_navigation_is_cut(self, new_page: Callable[..., Any], url: str, width: int) -> None:
        page = new_page(**PHONE | {"viewport": {"width": width, "height": 844}})
        page.goto(url)
        bar = page.locator("nav.bar")
        assert bar.locator("a").count() == 7
        for item in bar.locator("a, button:visible").all():
            box = item.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert bar.evaluate("(e) => e.scrollWidth <= e.clientWidth")
        assert bar.bounding_box()["height"] < 110
        assert page.locator("[data-help]").is_hidden()  # a finger has no keys
        bar.locator("a[href='#pairs']").click()
        below = bar.bounding_box()["height"]
        until(page, f"document.getElementById('pairs').getBoundingClientRect().top >= {below - 1}")

    @pytest.mark.parametrize("which", ["url", "six"])
    def test_the_difference_is_on_the_screen(
        self, new_page: Callable[..., Any], which: str, request: pytest.FixtureRequest, keep: Keep
    ) -> None:
        page = new_page(**PHONE)
        page.goto(request.getfixturevalue(which))
        for table in page.locator("table.results:visible").all():
            for cell in table.locator("tr > :nth-child(5)").all():
                box = cell.bounding_box()
                assert box["x"] + box["width"] <= 390 - 16
            swipe = table.locator("xpath=..").locator("xpath=following-sibling::p")
            assert "scroll sideways" in swipe.inner_text() and swipe.is_visible()
        page.locator("#results").scroll_into_view_if_needed()
        keep(page, f"report-phone-results-{which}")

    def test_the_hint_goes_where_nothing_is_hidden(self, page: Any, url: str) -> None:
        page.goto(url)
        assert page.locator(".swipe").count() > 0
        assert page.locator(".swipe:visible").count() == 0


def test_paper_has_all(new_page: Callable[..., Any], six: str) -> None:
    page = new_page(viewport={"width": 794, "height": 1000}, color_scheme="dark")
    page.goto(six)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".drawing:visible").count() == page.locator(".drawing").count() > 0
    assert page.locator("#gallery .pair").count() == 30
    assert page.locator("nav.bar").is_hidden() and page.locator("#controls").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "light"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.locator(".drawing:visible").count() == 0
    assert len(page.pdf(format="A4")) > 50_000


def test_a_colour_mark_is_no_button(page: Any, url: str) -> None:
    page.goto(url)
    page.locator("table.results .swatch").first.click()
    assert page.locator("#viewer").is_hidden()


def test_maps_are_called_what_they_are(page: Any, url: str) -> None:
    page.goto(url)
    assert page.locator(".examples tbody th").last.inner_text().startswith("image contrast\nspectral residual")
    assert page.locator("[name=view] option[value=saliency]").text_content() == "image contrast"
    frame = page.locator("#gallery .has-over").first
    assert frame.get_attribute("title") == "image contrast (spectral residual)"
    assert "people look" not in str(page.locator(".examples, #controls, #gallery").all_inner_texts())
