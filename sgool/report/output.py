"""The report's folder, which is made beside the old one and replaces it when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sgool.errors import SgoolError
from sgool.results.atomic import explain_os_errors

MARK = '<meta name="generator" content="sgool report">'
FOLDERS = ("images", "figures")
FILES = ("results.csv", "tables.md", "tables.tex", "index.html")  # the page comes last, since it needs the others


@contextmanager
def report_folder(folder: Path, *, own: bool) -> Iterator[Path]:
    """Yield a new, empty folder to write the report into; at the end its files replace those in ``folder``.

    Args:
        folder: Where the report belongs. Other files in it stay.
        own: Whether the folder belongs to the report (``RUN/report``). If not, the folder must be new, be empty, or
            hold an earlier report.

    Raises:
        SgoolError: The folder holds something else, or cannot be written. An earlier report is left as it was.
    """
    taken = [name for name in (*FOLDERS, *FILES) if (folder / name).exists()]
    if taken and not own and not _is_report(folder / "index.html"):
        raise SgoolError(
            f"{folder} holds {', '.join(taken)}, which no report made and a report would replace. "
            "Give --out a folder of its own."
        )
    with explain_os_errors(f"write the report to {folder}", "Make room or permissions there and run it again."):
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f".new-{os.getpid()}"
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            for name in FOLDERS:
                (new / name).mkdir()
            yield new
            _replace(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _replace(new: Path, folder: Path) -> None:
    old = new / "old"
    old.mkdir()
    for name in (*FOLDERS, *FILES):
        if (folder / name).is_dir():  # a folder cannot be renamed onto another
            os.replace(folder / name, old / name)
        os.replace(new / name, folder / name)


def _is_report(page: Path) -> bool:
    try:
        with page.open(encoding="utf-8", errors="replace") as stream:
            return MARK in stream.read(2000)
    except OSError:
        return False
