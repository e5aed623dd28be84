"""The study's page on a phone: the instructions first, and nothing about keys that are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgool.study import StudyOptions, build_study
from tests.browser.conftest import Keep
from tests.browser.test_study import begin
from tests.fake_run import fake_pairs, make_fake_run

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
HINTS = ".keys:visible, .key:visible, kbd:visible"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("phone")
    run = make_fake_run(folder / "run", methods=("vanilla", "sgool"), pairs=fake_pairs())
    study = build_study([run.path], StudyOptions(per_rater=4, attention=1, out=folder / "study"))
    return (study.page / "index.html").as_uri()


@pytest.mark.parametrize("query", ["", "?rater=r7"])
@pytest.mark.parametrize("options", [PHONE, PHONE | {"viewport": {"width": 844, "height": 390}}, {}])
def test_it_opens_with_the_instructions(
    new_page: Callable[..., Any], url: str, keep: Keep, options: dict, query: str
) -> None:
    """A focus on the field for the rater's ID, which stands below them, would scroll past them."""
    page = new_page(**options)
    page.goto(url + query)
    page.wait_for_selector("#welcome:visible")
    page.wait_for_timeout(200)
    assert page.evaluate("scrollY") == 0
    assert page.locator("#welcome h1").bounding_box()["y"] >= 0
    assert page.evaluate("document.activeElement === document.body")
    keep(page, f"study-opens-{options.get('viewport', {}).get('width', 1280)}")


def test_after_a_pause_too(new_page: Callable[..., Any], url: str) -> None:
    page = new_page(**PHONE)
    page.goto(url)
    begin(page)
    page.evaluate("scrollTo(0, 1e6)")
    page.click("#leave")
    assert page.evaluate("scrollY") == 0
    assert page.evaluate("document.activeElement.id") == "welcome-title"


@pytest.mark.parametrize(
    "options",
    [
        PHONE,
        PHONE | {"viewport": {"width": 844, "height": 390}},
        {"viewport": {"width": 1024, "height": 768}, "has_touch": True},  # a tablet
        {"viewport": {"width": 390, "height": 844}},  # a phone that says it has a fine pointer
    ],
)
def test_no_keys_are_named_where_there_are_none(new_page: Callable[..., Any], url: str, options: dict) -> None:
    page = new_page(**options)
    page.goto(url)
    begin(page)
    assert page.locator(HINTS).count() == 0
    assert page.inner_text("#back").strip() == "Back"


def test_keys_are_named_where_there_are_some(page: Any, url: str, tmp_path: Path) -> None:
    page.goto(url)
    begin(page)
    assert page.locator(HINTS).count() > 8
