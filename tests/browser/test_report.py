"""The report in a real Chromium, opened from disk: what it shows, how it is used, and that it stays small and quiet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sgool.report import build_report
from sgool.report.images import Strip, make_strip
from tests.browser.conftest import Keep, until
from tests.fake_run import fake_pairs, make_fake_run, make_large_run
from tests.report.reading import Page

METHODS = ("vanilla", "clip_guidance", "doodl", "sgool")
EVIL = (
    '</script><script>window.bad = 1</script><img src=x onerror="window.bad = 1"> "quotes" שלום 🦊 \u202e'
    + "long " * 380
)
PROMPTS = [(EVIL, "<b>evil</b>"), *((f"a {c} cat, number {n}", c) for n, c in enumerate(["red", "blue", "green"] * 7))]


@dataclass(frozen=True)
class Report:
    """A report's address, and what the tests expect of it, from its data."""

    url: str
    data: dict[str, Any]

    def ids(self) -> list[str]:
        return [row[0] for row in self.data["rows"]]

    def gains(self, method: int, base: int, metric: int = 0) -> dict[str, float]:
        """Pair id -> gain, where both have a value."""
        found = {}
        for row in self.data["rows"]:
            cells = row[5]
            if not cells[method][8][0] and not cells[base][8][0]:
                found[row[0]] = cells[method][4][metric] - cells[base][4][metric]
        return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """22 pairs by four methods, one failed, with snapshots; the first prompt is hostile."""
    folder = tmp_path_factory.mktemp("reports") / "run #1 & ü"
    errors = {("doodl", 3): "non-finite loss at update 2"}
    pairs = fake_pairs(PROMPTS, (0,))
    run = make_fake_run(folder, methods=METHODS, pairs=pairs, failed=errors, snapshots=(1, 2))
    path = build_report([run.path])
    return Report(path.as_uri(), Page(path).data)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """2,000 pairs by four methods that share one file of pictures, to be made in seconds; no figures."""
    run = make_large_run(tmp_path_factory.mktemp("large") / "run", 2000, METHODS, images=False)
    first = make_fake_run(tmp_path_factory.mktemp("one") / "run", methods=("sgool",), pairs=fake_pairs()[:1])
    source = first.pair_folder("sgool", fake_pairs()[0].pair_id)
    made: list[Strip] = []

    def shared(folder: Path, target: Path, side: int, *, failed: bool = False) -> Strip:
        if not made:
            made.append(make_strip(source, target.with_name("all.webp"), side))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgool.report.gallery.make_strip", shared)
        patch.setattr("sgool.report.page.score_figures", lambda source: {})
        path = build_report([run.path])
    return Report(path.as_uri(), Page(path).data)


def shown(page: Any) -> list[str]:
    """Ids of the pairs that stand in the list, in order; all of them where the list is short."""
    return page.eval_on_selector_all("#gallery .pair", "found => found.map(e => report.data.rows[e.dataset.row][0])")


def choose(page: Any, name: str, text: str) -> None:
    page.select_option(f"#controls [name={name}]", label=text)
    page.wait_for_timeout(50)


def to_pairs(page: Any, report: Report, hash_: str = "") -> None:
    page.goto(report.url + hash_)
    page.locator("#pairs").scroll_into_view_if_needed()
    page.wait_for_selector("#gallery .pair")


def whole_list(page: Any) -> None:
    """All rows on the screen at once, so that they can be read."""
    page.set_viewport_size({"width": 1280, "height": 16000})
    until(page, "document.querySelectorAll('#gallery .pair').length === report.count()")


class TestLook:
    def test_screenshots(self, new_page: Callable[..., Any], report: Report, keep: Keep) -> None:
        looks = {
            "light": {"viewport": {"width": 1400, "height": 1000}},
            "dark": {"viewport": {"width": 1400, "height": 1000}, "color_scheme": "dark"},
            "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
        }
        for name, options in looks.items():
            page = new_page(**options)
            page.goto(report.url)
            assert keep(page, f"report-{name}").stat().st_size > 10_000
            page.locator("#pairs").scroll_into_view_if_needed()
            page.wait_for_selector("#gallery .pair img")
            keep(page, f"report-{name}-pairs")
            # Wide tables scroll in their own boxes: the page never scrolls sideways.
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def test_hostile_text_is_text(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        assert page.evaluate("window.bad") is None
        assert page.locator("#gallery .pair h3").first.text_content() == EVIL
        assert page.title().startswith("run #1 & ü")

    def test_every_picture_loads(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        whole_list(page)
        images = page.locator("#gallery img")
        assert images.count() == 22 * 4 - 1 + 22  # one failed; sgool's overlays
        until(page, "[...document.querySelectorAll('#gallery img')].every(i => i.complete && i.naturalWidth)")

    def test_without_javascript(self, new_page: Callable[..., Any], report: Report) -> None:
        page = new_page(java_script_enabled=False)
        page.goto(report.url)
        assert page.locator("noscript tr").count() == 22
        assert page.locator("#controls").is_hidden()


class TestFilters:
    def test_search_and_category(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        page.fill("#search", "NUMBER 1 cat")
        until(page, "report.count() < 22")
        expected = [row[0] for row in report.data["rows"] if "cat" in row[1] and "number 1" in row[1]]
        assert len(expected) == 11
        whole_list(page)
        assert shown(page) == expected
        assert page.inner_text("#shown").startswith(f"{len(expected)} of 22 pairs")
        choose(page, "category", "blue")
        blue = report.data["categories"].index("blue")
        kept = [row[0] for row in report.data["rows"] if row[2] == blue and row[0] in expected]
        assert kept and shown(page) == kept
        page.fill("#search", "no such words")
        page.wait_for_selector("#nothing:not([hidden])")
        page.click("#reset")
        until(page, "report.count() === 22")

    @pytest.mark.parametrize(("name", "sign"), [("better", 1), ("worse", -1)])
    def test_wins_and_losses(self, page: Any, report: Report, name: str, sign: int) -> None:
        to_pairs(page, report)
        choose(page, "a", "doodl")
        choose(page, "b", "clip_guidance")
        choose(page, "show", name)
        whole_list(page)
        expected = [pair for pair, gain in report.gains(2, 1).items() if sign * gain > 1e-6]
        assert 0 < len(expected) < 21
        assert shown(page) == expected

    def test_failed(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        choose(page, "show", "failed")
        assert shown(page) == [report.ids()[3]]
        assert "failed: non-finite loss at update 2" in page.inner_text("#gallery .broken")

    @pytest.mark.parametrize(("text", "sign"), [("largest gain first", -1), ("worst first", 1)])
    def test_order(self, page: Any, report: Report, text: str, sign: int) -> None:
        to_pairs(page, report)
        choose(page, "a", "doodl")
        choose(page, "order", text)
        whole_list(page)
        gains = report.gains(2, 0)
        expected = [*sorted(gains, key=lambda pair: sign * gains[pair]), report.ids()[3]]  # the failed one goes last
        assert shown(page) == expected

    def test_methods_can_be_hidden_but_not_all(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        page.click("details.columns summary")
        for number in range(4):
            page.click(f"[name=column][value='{number}']")
            page.wait_for_timeout(30)
        names = page.locator("#gallery .pair").first.locator(".cell .name").all_inner_texts()
        assert names == ["sgool"]


class TestTrajectory:
    def test_slider(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        row = page.locator("#gallery .pair").nth(1)
        slider, image = row.locator(".slider"), row.locator(".cell[data-method='3'] .strip:not(.over)")
        assert report.data["rows"][1][5][3][1] == ["first image", "update 1", "update 2", "final image"]
        assert (slider.get_attribute("max"), slider.input_value()) == ("3", "3")
        place = "e => new DOMMatrix(getComputedStyle(e).transform).e / e.parentElement.clientWidth"
        for step, name in enumerate(["first image", "update 1", "update 2", "final image"]):
            slider.fill(str(step))
            assert slider.get_attribute("aria-valuetext") == name or step in (1, 2)  # clip_guidance and others agree
            assert image.evaluate(place) == pytest.approx(-step, abs=0.02)
            assert f": {name} for “" in str(image.get_attribute("alt"))

    def test_where_people_look(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        frame = page.locator("#gallery .pair").nth(1).locator(".has-over")
        over = frame.locator(".over")
        opacity = "e => e.getAnimations().forEach(a => a.finish()) || getComputedStyle(e).opacity"
        assert over.evaluate(opacity) == "0"
        frame.click()
        page.mouse.move(0, 0)
        assert (frame.get_attribute("aria-pressed"), over.evaluate(opacity)) == ("true", "1")
        frame.click()
        page.mouse.move(0, 0)
        assert over.evaluate(opacity) == "0"
        page.keyboard.press("s")
        assert over.evaluate(opacity) == "1"
        choose(page, "view", "first")
        assert over.evaluate(opacity) == "0"
        assert page.locator("#gallery .slider").first.input_value() == "0"


class TestKeyboard:
    def test_from_pair_to_pair(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        focused = "document.activeElement.getAttribute('aria-posinset')"
        for key, place in [
            ("j", "1"),
            ("j", "2"),
            ("ArrowDown", "3"),
            ("k", "2"),
            ("End", "22"),
            ("ArrowUp", "21"),
            ("Home", "1"),
        ]:
            page.keyboard.press(key)
            assert page.evaluate(focused) == place
        page.keyboard.press("ArrowLeft")
        assert page.locator(".pair:focus .slider").input_value() == "2"

    def test_in_large(self, page: Any, report: Report, keep: Keep) -> None:
        to_pairs(page, report)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_selector("#viewer[open] .pair")
        page.keyboard.press("j")
        assert page.inner_text("#viewer .count") == "2 of 22"
        page.keyboard.press("ArrowLeft")
        assert page.locator("#viewer .slider").input_value() == "2"
        keep(page, "report-large")
        page.keyboard.press("Escape")
        assert page.locator("#viewer").is_hidden()
        assert page.evaluate("document.activeElement.getAttribute('aria-posinset')") == "2"

    def test_help_tells_every_key(self, page: Any, report: Report, keep: Keep) -> None:
        page.goto(report.url)
        page.keyboard.press("?")
        keys = page.locator("#help kbd").all_inner_texts()
        assert set("jksw/bfrt?") < set(keys) and {"↓", "↑", "←", "→", "Enter", "Esc"} < set(keys)
        keep(page, "report-keys")
        page.keyboard.press("?")
        assert page.locator("#help").is_hidden()

    def test_letters_in_the_search_are_text(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        page.keyboard.press("/")
        page.keyboard.type("wjt?")
        assert page.input_value("#search") == "wjt?"
        assert page.locator("#help").is_hidden()
        page.keyboard.press("Escape")
        page.keyboard.press("r")
        page.keyboard.press("w")
        assert page.input_value("[name=order]") == "worst"
        page.keyboard.press("f")
        assert shown(page) == [report.ids()[3]]


class TestAddress:
    def test_a_view_can_be_shared(self, page: Any, new_page: Callable[..., Any], report: Report) -> None:
        to_pairs(page, report)
        page.fill("#search", "cat & number=1#%")
        choose(page, "a", "doodl")
        choose(page, "b", "its first image")
        choose(page, "metric", "Scene accuracy")
        choose(page, "order", "worst first")
        page.click("details.columns summary")
        page.click("[name=column][value='1']")
        until(page, "location.hash.includes('hide=clip_guidance') && location.hash.includes('q=cat')")
        other = new_page()
        other.goto(page.url)
        assert other.evaluate("JSON.stringify(report.state)") == page.evaluate("JSON.stringify(report.state)")
        assert other.input_value("#search") == "cat & number=1#%"
        assert other.input_value("[name=b]") == "4"

    def test_nonsense_is_left_out(self, page: Any, report: Report) -> None:
        to_pairs(page, report, "#order=sideways&a=first-image&b=nobody&metric=x&hide=nobody&category=none&q=green")
        state = page.evaluate("report.state")
        defaults = page.evaluate("report.defaults")
        assert state == defaults | {"q": "green"}
        page.evaluate("location.hash = '#order=best'")
        until(page, "report.state.order === 'best' && report.state.q === ''")

    def test_an_anchor_is_no_state(self, page: Any, report: Report) -> None:
        to_pairs(page, report, "#order=worst")
        page.click("nav a[href='#problems']")
        assert page.evaluate("report.state.order") == "worst"


def test_the_theme_is_switched_and_kept(page: Any, report: Report) -> None:
    page.goto(report.url)
    ground = "getComputedStyle(document.body).backgroundColor"
    drawn = "getComputedStyle(document.querySelector('.drawing text')).fill"
    light = page.evaluate(ground), page.evaluate(drawn)
    page.click("[data-theme-switch]")
    dark = page.evaluate(ground), page.evaluate(drawn)
    assert light[0] != dark[0] and light[1] != dark[1]  # the figures follow
    page.reload()
    assert page.evaluate(ground) == dark[0]
    page.keyboard.press("t")
    assert page.evaluate(ground) == light[0]


class TestMany:
    """2,000 pairs by 4 methods: what counts is how much stands in the page at any time."""

    MOST_PAIRS = 40

    def rows(self, page: Any) -> int:
        return page.locator("#gallery .pair").count()

    def test_few_rows_stand_in_the_page(self, page: Any, large: Report) -> None:
        to_pairs(page, large)
        assert page.inner_text("#shown").startswith("2000 pairs")
        assert 0 < self.rows(page) <= self.MOST_PAIRS
        assert page.evaluate("document.querySelectorAll('*').length") < 6000
        # As if all were there: the scroll bar is long.
        assert page.evaluate("document.getElementById('gallery').clientHeight") > 2000 * 150
        for share in (0.3, 0.9, 0.5):
            page.evaluate(f"scrollTo(0, document.documentElement.scrollHeight * {share})")
            page.wait_for_timeout(250)
            assert 0 < self.rows(page) <= self.MOST_PAIRS

    def test_any_row_is_a_key_away(self, page: Any, large: Report) -> None:
        to_pairs(page, large)
        for key, place in [("j", 1), ("End", 2000), ("k", 1999), ("Home", 1)]:
            page.keyboard.press(key)
            page.wait_for_timeout(100)
            focused = page.locator(".pair:focus")
            assert focused.get_attribute("aria-posinset") == str(place)
            assert focused.get_attribute("aria-setsize") == "2000"
            box = focused.bounding_box()
            assert -10 < box["y"] < 900  # on the screen
            assert self.rows(page) <= self.MOST_PAIRS

    def test_filter_and_order(self, page: Any, large: Report) -> None:
        to_pairs(page, large)
        page.fill("#search", "number 19")
        until(page, "report.count() < 2000")
        fitting = [row[0] for row in large.data["rows"] if "19" in row[1]]  # "number" is in every prompt
        assert page.evaluate("report.count()") == len(fitting)
        page.keyboard.press("Escape")
        page.keyboard.press("w")
        gains = large.gains(3, 0)
        assert shown(page)[:6] == sorted(fitting, key=lambda pair: gains[pair])[:6]


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((v, k) => k < 3 ? v : v / 255);
  };
  const over = (top, under) => top.slice(0, 3).map((v, k) => v * top[3] + under[k] * (1 - top[3]));
  const ground = (e) => {
    if (!e) return [255, 255, 255];
    const own = rgba(getComputedStyle(e).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(e.parentElement));
  };
  const light = (c) => {
    const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const texts = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!texts || !e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (e.closest('script, style, noscript, option, .unseen, .skip')) continue;
    const style = getComputedStyle(e);
    const under = ground(e);
    const colour = over(rgba(e.namespaceURI.endsWith('svg') ? style.fill : style.color), under);
    const [a, b] = [light(colour), light(under)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), e.tagName + '.' + e.className + ': ' + e.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


class TestAccessibility:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_contrast_of_every_text(self, new_page: Callable[..., Any], report: Report, theme: str) -> None:
        """WCAG 2.1's 4.5:1, of every piece of text against what lies under it."""
        page = new_page(color_scheme=theme)
        to_pairs(page, report)
        page.evaluate("document.querySelectorAll('details').forEach((e) => (e.open = true))")
        found = page.evaluate(CONTRAST)
        assert len(found) > 500
        assert [text for ratio, text in found if ratio < 4.5] == []

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_contrast_of_the_methods_colours(self, new_page: Callable[..., Any], report: Report, theme: str) -> None:
        """Marks and lines need 3:1; these have 4.5:1, on panels and on the page."""
        page = new_page(color_scheme=theme)
        page.goto(report.url)
        page.evaluate(
            """() => { const box = document.createElement('div'); box.id = 'probe'; document.body.append(box);
            for (const ground of ['page', 'panel']) for (let k = 0; k < 8; k++) {
              const e = document.createElement('p'); e.textContent = `colour ${k} on ${ground}`;
              e.style.color = `var(--c${k})`; e.style.background = `var(--${ground})`; box.append(e); } }"""
        )
        found = [(ratio, text) for ratio, text in page.evaluate(CONTRAST) if "P.: colour" in text]
        assert len(found) == 16
        assert [text for ratio, text in found if ratio < 4.5] == []

    def test_names_of_controls_and_pictures(self, page: Any, report: Report) -> None:
        to_pairs(page, report)
        missing = page.evaluate(
            """() => [...document.querySelectorAll('input, select, button, dialog, [role=region], [role=img]')]
            .filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()
              || (e.labels && [...e.labels].some((l) => l.textContent.trim()))
              || e.getAttribute('aria-hidden') === 'true')).map((e) => e.outerHTML.slice(0, 120))"""
        )
        assert missing == []
        assert page.locator("img:not([alt])").count() == 0
        assert page.locator("#gallery .strip:not(.over)[alt='']").count() == 0
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.locator("main").count() == page.locator("h1").count() == 1
        doubles = page.evaluate(
            """() => { const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
            return ids.filter((id, k) => ids.indexOf(id) !== k); }"""
        )
        assert doubles == []

    def test_sections_by_keyboard(self, page: Any, report: Report) -> None:
        page.goto(report.url)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == "#examples"


def test_a_link_to_a_section_leads_there(report: Report, new_page: Callable[..., Any]) -> None:
    page = new_page()
    for section in ("results", "pairs", "problems"):
        page.goto("about:blank")
        page.goto(f"{report.url}#{section}")
        top = f"document.getElementById('{section}').getBoundingClientRect().top"
        bottom = "innerHeight + scrollY >= document.documentElement.scrollHeight - 2"
        until(page, f"{top} >= 0 && {top} < 120 || scrollY > 0 && {bottom}")
        assert page.evaluate("location.hash") == f"#{section}"
    page.select_option("select[name=order]", "worst")  # from here on the address holds what is chosen
    until(page, "location.hash === '#order=worst'")
