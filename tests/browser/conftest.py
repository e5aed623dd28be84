"""A real Chromium for the pages: what the browser tests share.

Debian's chromium, or ``SGOOL_CHROMIUM``; playwright downloads none. Without a browser the tests are skipped, and fail
in CI (tests/ci_plugin.py). Screenshots that a test keeps lie under ``SGOOL_ARTIFACTS``, else in the test's own folder.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
Keep = Callable[[Any, str], Path]


def chromium_path() -> str | None:
    """The browser to drive, or None if there is none."""
    chosen = os.environ.get("SGOOL_CHROMIUM")
    return next((path for path in map(shutil.which, (chosen,) if chosen else _NAMES) if path), None)


def is_local(url: str) -> bool:
    """Whether a request stays on this machine: the disk, the page itself, or a test's own server on loopback."""
    parts = urlsplit(url)
    return parts.scheme in ("file", "data", "blob", "about") or parts.hostname in ("127.0.0.1", "localhost", "::1")


def until(page: Any, expression: str, seconds: float = 20) -> None:
    """Waits for a JavaScript expression to be true. Playwright's own ``wait_for_function`` needs ``eval`` in the page,
    which the pages' policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"still not true after {seconds} s: {expression}"
        page.wait_for_timeout(20)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Playwright's browser, started once."""
    path = chromium_path()
    if path is None:
        pytest.skip("missing program: chromium (apt-get install chromium, or set SGOOL_CHROMIUM; .ci/run does it)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("missing program: playwright (pip install playwright; it is among the dev dependencies)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Makes pages that fail the test, at its end, for a console error, an exception or a request to anywhere else.

    Options are those of playwright's ``new_context``: ``viewport``, ``color_scheme``, ``has_touch``, ...
    """
    complaints: list[str] = []
    contexts = []

    def make(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
        page.on("request", lambda request: None if is_local(request.url) else complaints.append(request.url))
        return page

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    """A page of 1280 x 900 pixels, see `new_page`."""
    return new_page()


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """``keep(page, name)``: a screenshot as NAME.png, its path."""
    folder = Path(os.environ.get("SGOOL_ARTIFACTS") or tmp_path / "screenshots")

    def save(page: Any, name: str, **options: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        page.screenshot(path=path, **options)
        return path

    return save
