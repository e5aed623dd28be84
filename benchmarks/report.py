"""What a large report costs: building it, its size, and opening it in Chromium from disk.

python benchmarks/report.py [--pairs N ...]

Made-up results of four methods, 64-pixel images. Each number of pairs is built with and without images in one run:
their ratio is the share of all but the pictures. Opening ends when the first rows of the gallery stand in the page;
without chromium (or ``SGOOL_CHROMIUM``) that column is empty.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from sgool.report import build_report

# The tests are no package that is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.fake_run import make_large_run

METHODS = ("vanilla", "clip_guidance", "doodl", "sgool")
CHROMIUM = os.environ.get("SGOOL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def measure(run: Callable[[], Path]) -> tuple[float, Path]:
    """Wall seconds, and what ``run`` made."""
    start = time.perf_counter()
    made = run()
    return time.perf_counter() - start, made


def opening(page: Path) -> tuple[float, int] | None:
    """Seconds until the gallery shows rows, and how many those are; the lesser of two times."""
    if not CHROMIUM:
        return None
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(2):
            opened = browser.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            opened.goto(f"{page.as_uri()}#pairs", wait_until="load")
            opened.locator("#gallery .pair").first.wait_for()
            found.append((time.perf_counter() - start, opened.locator("#gallery .pair").count()))
            opened.close()
        browser.close()
    return min(found)


def row(folder: Path, pairs: int) -> dict[str, Any]:
    """One line of the table."""
    bare = make_large_run(folder / "bare", pairs, METHODS, images=False).path
    without, _ = measure(lambda: build_report([bare]))
    run = make_large_run(folder / "run", pairs, METHODS).path
    seconds, page = measure(lambda: build_report([run]))
    size = sum(path.stat().st_size for path in page.parent.rglob("*") if path.is_file())
    opened = opening(page)
    return {
        "results": pairs * len(METHODS),
        "build, s": seconds,
        "without pictures / with": without / seconds,
        "index.html, MB": page.stat().st_size / 1e6,
        "folder, MB": size / 1e6,
        "open, s": opened[0] if opened else float("nan"),
        "rows in the page": opened[1] if opened else "",
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[250, 1250, 2000], help="each by four methods")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row(Path(folder), 8)  # imports, fonts
    rows = []
    for pairs in arguments.pairs:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(Path(folder), pairs))
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.2f}"))


if __name__ == "__main__":
    main()
