"""Where phrases were found, on the report's pictures, in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sgool.report import build_report
from sgool.results import RunFolder
from tests.browser.conftest import Keep
from tests.fake_run import fake_pairs, make_fake_run

EVIL = "<img src=x onerror='window.bad = 1'> שלום"
PHRASES = [
    {"phrase": "a purple car", "distance": 0.4658, "box": [16, 8, 32, 24]},
    {"phrase": EVIL, "distance": 0.7997, "box": [16, 8, 32, 24]},
    {"phrase": "two dogs", "distance": 1.25, "box": [0, 40, 24, 24]},
]
ELSEWHERE = [{"phrase": "a red cat", "distance": float("nan"), "box": None}]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two pairs whose `sgool` matched regions with phrases; one of them found no region."""
    pairs = fake_pairs()[:2]
    folder: RunFolder = make_fake_run(tmp_path_factory.mktemp("phrases") / "run", pairs=pairs)
    for pair, phrases in zip(pairs, (PHRASES, ELSEWHERE), strict=True):
        record = folder.record("sgool", pair.pair_id)
        assert record is not None
        folder.replace_record(replace(record, phrases=phrases))
    return build_report([folder.path]).as_uri()


def test_a_box_and_its_words_stand_on_the_saliency_map(
    new_page: Callable[..., Any], url: str, keep: Keep, tmp_path: Path
) -> None:
    for look in ("light", "dark"):
        page = new_page(viewport={"width": 1400, "height": 1000}, color_scheme=look)
        page.goto(url)
        page.select_option("#controls [name=size]", label="large")
        page.locator("#pairs").scroll_into_view_if_needed()
        page.wait_for_selector("#gallery .pair img")
        cell = page.locator("#gallery .pair").first.locator(".cell[data-method='2']")
        boxes = cell.locator(".where")
        assert boxes.all_text_contents() == [f"a purple car · {EVIL}", "two dogs"]
        assert boxes.first.evaluate("box => getComputedStyle(box).opacity") == "0"
        cell.locator("button.frame").click()
        page.wait_for_timeout(300)
        assert boxes.first.evaluate("box => getComputedStyle(box).opacity") == "1"
        frame, box = cell.locator("button.frame").bounding_box(), boxes.first.bounding_box()
        place = [(box["x"] - frame["x"]) / frame["width"], (box["y"] - frame["y"]) / frame["height"]]
        place += [box["width"] / frame["width"], box["height"] / frame["height"]]
        # Per cent with two digits of a frame of some hundred pixels.
        assert place == pytest.approx([8 / 64, 16 / 64, 24 / 64, 32 / 64], abs=0.01)
        keep(page, f"phrases-{look}")
        assert page.evaluate("window.bad") is None


def test_distances_stand_below_the_picture(new_page: Callable[..., Any], url: str) -> None:
    page = new_page()
    page.goto(url)
    page.select_option("#controls [name=size]", label="large")
    page.wait_for_selector("#gallery .pair img")
    rows = page.locator("#gallery .pair")
    found = [rows.nth(at).locator(".cell[data-method='2'] .found .chip").all_text_contents() for at in (0, 1)]
    assert found == [["a purple car 0.47", f"{EVIL} 0.80", "two dogs 1.25"], ["a red cat – in the whole image"]]
    assert rows.first.locator(".cell[data-method='0'] .found .chip").count() == 0
    assert rows.nth(1).locator(".where").count() == 0
    assert rows.first.locator(".labels").text_content().endswith("Phrasesdistance, lower is nearer")
