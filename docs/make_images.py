"""Makes the README's pictures from a run's report: ``make demo``, then ``python docs/make_images.py runs/demo``.

Needs chromium, or ``SGOOL_CHROMIUM``, and playwright, which is among the dev dependencies.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent / "images"
SIZE = {"width": 1280, "height": 1000}
PARTS = ("results", "pairs")


def screenshots(page: Path) -> None:
    """Two parts of a report, in light colours, into ``report-PART.webp``."""
    browser = os.environ.get("SGOOL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        opened = started.new_page(viewport=SIZE, color_scheme="light", device_scale_factor=1.25)
        for part in PARTS:
            opened.goto(f"{page.resolve().as_uri()}#{part}", wait_until="load")
            opened.wait_for_timeout(500)  # pictures that come into view
            with Image.open(io.BytesIO(opened.screenshot())) as picture:
                picture.save(HERE / f"report-{part}.webp", quality=88, method=6)
        started.close()


def main() -> None:
    """Writes ``docs/images/examples.webp``, ``report-results.webp`` and ``report-pairs.webp``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder with a report")
    report = parser.parse_args().run / "report"
    screenshots(report / "index.html")
    with Image.open(report / "figures/examples.png") as picture:
        picture.convert("RGB").save(HERE / "examples.webp", quality=90, method=6)


if __name__ == "__main__":
    main()
