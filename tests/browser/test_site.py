"""The documentation site in a browser, opened from disk: light, dark, wide and on a phone; its search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs.building import build_site

WIDE, PHONE = {"width": 1400, "height": 1000}, {"width": 390, "height": 844}
LOOKED_AT = ("index", "getting-started", "methods", "reference/objectives", "reference/config/sampler")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_pages_fit_the_window_in_the_reader_s_colours(
    site: Path, new_page: Callable[..., Any], keep: Callable[..., Path], colours: str, size: dict[str, int]
) -> None:
    page = new_page(viewport=size, color_scheme=colours)
    for name in LOOKED_AT:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
        assert page.evaluate("document.images.length === [...document.images].filter((i) => i.naturalWidth).length")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in background.strip("rgb()").split(",")[:3]) / 3
        assert (brightness > 200) == (colours == "light"), background
        keep(page, f"site-{name.replace('/', '-')}-{colours}-{size['width']}")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("mixing coeff", "reference/config/sampler.html"), ("LatentPairModule", "reference/methods.html")],
)
def test_the_search_finds_keys_and_names_without_a_server(site: Path, page: Any, words: str, wanted: str) -> None:
    page.goto((site / "tutorials" / "index.html").as_uri())
    page.click("input.md-search__input")
    page.keyboard.type(words)
    found = page.wait_for_selector(f'.md-search-result__link[href*="{wanted}"]', state="attached")
    assert wanted in found.get_attribute("href")
