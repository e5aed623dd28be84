"""The study's page in a real browser: from disk, against the server, by keyboard, on a phone."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sgool.study import Study, StudyOptions, build_study, study_results
from sgool.study.server import StudyServer
from sgool.study.votes import COLUMNS, read_votes
from tests.browser.conftest import Keep
from tests.fake_run import fake_pairs, make_fake_run
from tests.study.serving import serving
from tests.study.votes import form_steps, page_data

NASTY = "<script>document.title = 'broken'</script><img src=x onerror=alert(1)> & a very long text " + "on and on " * 20
STEPS = 8
"""Six comparisons and two checks."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = [("a red cat", "x"), ("two dogs", "x"), (NASTY, "x"), ("a car left of a tree", "x")]
    return make_fake_run(tmp_path_factory.mktemp("run"), methods=("vanilla", "sgool"), pairs=fake_pairs(prompts)).path


@pytest.fixture
def study(run: Path, tmp_path: Path) -> Study:
    return build_study([run], StudyOptions(per_rater=STEPS - 2, attention=2, out=tmp_path / "study"))


@pytest.fixture
def server(study: Study) -> Iterator[StudyServer]:
    with serving(study) as made:
        yield made


def form_of(rater: str, forms: int = 64) -> int:
    """What the page computes: FNV-1a and the finaliser of MurmurHash3."""
    value = 0x811C9DC5
    for byte in rater.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    value = (value ^ value >> 16) * 0x85EBCA6B % 2**32
    value = (value ^ value >> 13) * 0xC2B2AE35 % 2**32
    return (value ^ value >> 16) % forms


def begin(page: Any, rater: str = "r1") -> None:
    page.fill("#rater", rater)
    page.check("#agree")
    page.click("button[type=submit]")
    ready(page)


def ready(page: Any) -> None:
    """Both images are there, so that answers count."""
    page.wait_for_selector("#images:not(.loading)", state="attached")


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
        if page.is_visible("#compare"):
            ready(page)


def count(page: Any) -> str:
    return str(page.text_content("#count"))


def saved(page: Any) -> list[dict[str, str]]:
    """What the copy holds."""
    with page.expect_download() as download:
        page.click(".export:visible")
    path = Path(download.value.path())
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def status(page: Any, element: str, text: str) -> None:
    """Waits for it. Not wait_for_function: it evaluates strings, which the page's security policy forbids."""
    page.locator(f"#{element}", has_text=text).wait_for()


def address(study: Study) -> str:
    return (study.page / "index.html").as_uri()


class TestFromDisk:
    def test_a_whole_study_by_keyboard(self, page: Any, study: Study, tmp_path: Path, keep: Keep) -> None:
        page.goto(address(study))
        keep(page, "study-welcome", full_page=True)
        begin(page)
        expected = form_steps(page_data(study.page), form_of("r1"))
        for position, (item, left, right) in enumerate(expected, start=1):
            assert count(page) == f"{position} of {STEPS}"
            assert page.text_content("#prompt") == study.key.items[item].prompt
            assert page.get_attribute("#left", "src") == f"images/{left}.jpg"
            assert page.get_attribute("#right", "src") == f"images/{right}.jpg"
            press(page, "ArrowLeft", "ArrowDown")
        assert page.is_visible("#done")
        assert page.title() == "Image comparison study"
        keep(page, "study-done")
        with page.expect_download() as download:
            page.click(".export:visible")
        assert download.value.suggested_filename == f"votes-{study.key.study}-r1.csv"
        file = tmp_path / "votes.csv"
        download.value.save_as(file)
        votes, problems = read_votes(file, study.key)
        assert problems == []
        assert [(vote.item, vote.left, vote.right) for vote in votes] == expected
        assert {(vote.match, vote.prefer, vote.rater, vote.form) for vote in votes} == {
            ("left", "tie", "r1", form_of("r1"))
        }
        assert [vote.position for vote in votes] == list(range(1, STEPS + 1))
        assert study_results([file], study.folder / "key.json").lines == STEPS

    def test_it_resumes_where_it_stopped(self, page: Any, study: Study) -> None:
        page.goto(address(study))
        begin(page)
        press(page, "ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowRight", "ArrowDown")
        assert count(page) == f"3 of {STEPS}"
        page.reload()
        ready(page)
        assert count(page) == f"3 of {STEPS}"
        assert [(row["match"], row["prefer"]) for row in saved(page)] == [("left", "left"), ("right", "right")]
        page.click("#leave")
        assert not page.is_checked("#agree")
        begin(page, "r2")
        assert count(page) == f"1 of {STEPS}"
        page.click("#leave")
        begin(page, "r1")
        assert count(page) == f"3 of {STEPS}"

    def test_one_step_back_corrects_and_keeps_both(self, page: Any, study: Study) -> None:
        page.goto(address(study))
        begin(page)
        assert page.is_disabled("#back")
        press(page, "ArrowLeft", "ArrowLeft", "ArrowRight")
        press(page, "ArrowUp")  # from the second question of the second item to its first
        assert count(page) == f"2 of {STEPS}"
        press(page, "ArrowUp")  # to the second question of the first item, which shows what was said
        assert count(page) == f"1 of {STEPS}"
        assert page.get_attribute("#question-prefer [data-answer=left]", "aria-pressed") == "true"
        page.click("#question-match [data-answer=right]")  # the first question can still be changed
        press(page, "ArrowDown")
        assert count(page) == f"2 of {STEPS}"
        press(page, "Backspace")
        page.click("#continue")
        assert count(page) == f"2 of {STEPS}"
        rows = saved(page)
        assert [(row["match"], row["prefer"]) for row in rows] == [("left", "left"), ("right", "tie")]
        assert len({row["item"] for row in rows}) == 1

    def test_with_the_mouse_the_second_question_waits_for_the_first(self, page: Any, study: Study) -> None:
        page.goto(address(study))
        begin(page)
        assert page.is_disabled("#question-prefer [data-answer=left]")
        page.click("#question-match [data-answer=tie]")
        assert page.get_attribute("#question-match [data-answer=tie]", "aria-pressed") == "true"
        page.click("#question-prefer [data-answer=right]")
        ready(page)
        assert count(page) == f"2 of {STEPS}"
        assert page.get_attribute("#question-match [data-answer=tie]", "aria-pressed") == "false"
        assert page.get_attribute("#meter", "aria-valuenow") == "1"

    def test_no_start_without_an_id_and_consent(self, page: Any, study: Study) -> None:
        page.goto(address(study))
        page.fill("#rater", "my name")
        page.click("button[type=submit]")
        assert page.is_visible("#rater-error")
        assert page.is_visible("#agree-error")
        page.fill("#rater", "r1")
        page.click("button[type=submit]")
        assert not page.is_visible("#rater-error")
        assert page.is_visible("#welcome")
        assert page.evaluate("document.activeElement.id") == "agree"

    def test_a_link_names_the_rater(self, page: Any, study: Study) -> None:
        page.goto(address(study) + "?rater=r-7")
        assert page.input_value("#rater") == "r-7"
        begin(page, "r-7")
        page.goto(address(study) + "?rater=r-8")  # another rater does not go on as the last one
        assert page.is_visible("#welcome")
        assert page.input_value("#rater") == "r-8"

    def test_a_closer_look_leaves_the_answers_alone(self, page: Any, study: Study) -> None:
        page.goto(address(study))
        begin(page)
        page.click(".frame >> nth=0")
        assert page.text_content("#zoom-name") == "Image A"
        page.keyboard.press("ArrowRight")
        assert page.text_content("#zoom-name") == "Image B"
        assert str(page.get_attribute("#zoom-image", "src")).endswith(page.get_attribute("#right", "src"))
        page.keyboard.press("Escape")
        assert not page.is_visible("#zoom")
        assert page.locator("[aria-pressed=true]").count() == 0

    def test_a_page_for_one_rater(self, page: Any, run: Path, tmp_path: Path) -> None:
        study = build_study([run], StudyOptions(per_rater=4, attention=0, rater="r9", out=tmp_path / "one"))
        page.goto(address(study))
        assert page.get_attribute("#rater", "readonly") is not None
        page.check("#agree")
        page.click("button[type=submit]")
        ready(page)
        press(page, *["ArrowLeft"] * 8)
        assert {(row["rater"], row["form"]) for row in saved(page)} == {("r9", "0")}

    def test_an_image_that_cannot_be_shown_is_skipped(self, page: Any, study: Study) -> None:
        (_, left, _), (_, second, _) = form_steps(page_data(study.page), form_of("r1"))[:2]
        for name in (left, second):
            (study.page / "images" / f"{name}.jpg").write_bytes(b"no image")
        page.goto(address(study))
        page.fill("#rater", "r1")
        page.check("#agree")
        page.click("button[type=submit]")
        for position in (1, 2):
            page.locator("#broken").wait_for()
            assert count(page) == f"{position} of {STEPS}"
            page.keyboard.press("ArrowLeft")  # nothing can be answered
            assert page.is_disabled("#question-match [data-answer=left]")
            page.click("#skip")
        ready(page)
        press(page, *["ArrowLeft"] * 2 * (STEPS - 2))
        assert "2 could not be shown" in str(page.text_content("#done-text"))
        assert len(saved(page)) == STEPS - 2

    def test_without_storage_it_says_so_and_still_saves_a_copy(
        self, new_page: Callable[..., Any], study: Study
    ) -> None:
        page = new_page()
        page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('forbidden'); }})")
        page.goto(address(study))
        assert page.is_visible("#storage-note")
        begin(page)
        press(page, "ArrowLeft", "ArrowRight")
        assert [(row["match"], row["prefer"]) for row in saved(page)] == [("left", "right")]

    def test_the_form_is_the_same_in_every_language(self, page: Any, study: Study) -> None:
        """The page's own record of the form against this file's reading of the same hash."""
        page.goto(address(study))
        for rater in ("a", "R-2.b_c", "0" * 40):
            begin(page, rater)
            press(page, "ArrowLeft", "ArrowLeft")
            assert {int(row["form"]) for row in saved(page)} == {form_of(rater)}
            page.click("#leave")


class TestServer:
    def test_votes_land_in_the_file(self, page: Any, server: StudyServer, study: Study) -> None:
        page.goto(server.url)
        begin(page)
        press(page, "ArrowLeft", "ArrowRight")
        status(page, "saved", "All answers saved")
        votes, problems = read_votes(server.votes.path, study.key)
        assert problems == []
        assert [(vote.rater, vote.match, vote.prefer) for vote in votes] == [("r1", "left", "right")]
        press(page, *["ArrowDown", "ArrowDown"] * (STEPS - 1))
        assert page.is_visible("#done")
        status(page, "done-saved", "All answers saved")
        votes, problems = read_votes(server.votes.path, study.key)
        assert (len(votes), len({vote.item for vote in votes}), problems) == (STEPS, STEPS, [])
        rows = saved(page)
        assert [[str(getattr(vote, name)) for name in COLUMNS[:9]] for vote in votes] == [
            [row[name] for name in COLUMNS[:9]] for row in rows
        ]

    def test_what_could_not_be_sent_is_sent_later(self, new_page: Callable[..., Any], server: StudyServer) -> None:
        page = new_page()
        offline = {"now": True}
        # Answered, not dropped: a dropped request is an error on the console.
        page.route(
            "**/votes", lambda route: route.fulfill(status=302, body="") if offline["now"] else route.continue_()
        )
        page.goto(server.url)
        begin(page)
        press(page, "ArrowLeft", "ArrowLeft")
        status(page, "saved", "Not sent yet")
        assert not server.votes.path.exists()
        offline["now"] = False
        page.reload()
        status(page, "saved", "All answers saved")
        assert len(server.votes.path.read_text().splitlines()) == 2


class TestLooks:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("wide", {}),
            ("dark", {"color_scheme": "dark"}),
            ("phone", {"viewport": {"width": 390, "height": 664}, "has_touch": True, "is_mobile": True}),
            ("small", {"viewport": {"width": 320, "height": 568}, "has_touch": True, "is_mobile": True}),
        ],
    )
    def test_nothing_is_cut_off(
        self, new_page: Callable[..., Any], study: Study, keep: Keep, name: str, options: dict
    ) -> None:
        page = new_page(**options)
        page.goto(address(study))
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0
        begin(page)
        press(page, "ArrowRight")
        keep(page, f"study-{name}")
        press(page, "ArrowUp")
        for _ in range(STEPS):
            assert page.evaluate(wide) <= 0
            if page.text_content("#prompt").startswith("<script>"):
                keep(page, f"study-{name}-long")
            press(page, "ArrowLeft", "ArrowLeft")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_has_contrast(self, new_page: Callable[..., Any], study: Study, scheme: str) -> None:
        """WCAG AA: 4.5 to 1, of the colours that text is written in on what is behind it."""
        page = new_page(color_scheme=scheme)
        page.goto(address(study))
        pairs = [("ink", "page"), ("soft", "page"), ("soft", "panel"), ("bad", "page"), ("warn", "warn-fill")]
        pairs += [("on-accent", "accent"), ("accent", "panel"), ("accent", "accent-fill"), ("ink", "accent-fill")]
        for text, behind in pairs:
            lights = [_luminance(page.evaluate(_COLOUR, f"--{one}")) for one in (text, behind)]
            contrast = (max(lights) + 0.05) / (min(lights) + 0.05)
            assert contrast >= 4.5, f"{text} on {behind}: {contrast:.2f}"

    def test_what_can_be_reached_has_a_name(self, page: Any, study: Study) -> None:
        page.goto(address(study))
        begin(page)
        unnamed = page.evaluate(
            """[...document.querySelectorAll('button, input, img')].filter((one) =>
               !(one.getAttribute('aria-label') || one.alt || one.textContent.trim() || one.labels?.length)
               && one.id !== 'zoom-image' && one.id !== 'zoom-other').map((one) => one.outerHTML)"""
        )
        assert unnamed == []
        assert page.get_attribute("html", "lang") == "en"
        assert page.locator("main:visible").count() == page.locator("h1:visible").count() == 1


_COLOUR = "(name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"


def _luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
