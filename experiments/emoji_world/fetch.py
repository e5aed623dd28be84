"""The Noto emoji: where they lie, and how they get there."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

from experiments.emoji_world import words
from sgool.errors import SgoolError

PACKAGE = "emoji-datasource-google@16.0.0"
ARCHIVE = "emoji-datasource-google-16.0.0.tgz"
#: Of the archive as the npm registry has it.
SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
_INSIDE = ("package/img/google/64", "img/google/64", ".")


def find_emoji(folder: Path) -> Path:
    """The folder of 64 px PNGs in a work folder, in an unpacked package, or the folder itself.

    Raises:
        SgoolError: The emoji of `words.NOUNS` are in none of them.
    """
    for inside in _INSIDE:
        if all((folder / inside / name).is_file() for name in words.NOUNS.values()):
            return folder / inside
    raise SgoolError(
        f"expected the Noto emoji of {PACKAGE} (img/google/64/{next(iter(words.NOUNS.values()))}, ...) in {folder}; "
        "run the stage `fetch`, or point --emoji at an unpacked copy of that npm package"
    )


def fetch(work: Path) -> Path:
    """Downloads the npm package into the work folder with ``npm pack`` (74 MB) and unpacks its 64 px images.

    An archive that is already there is used.

    Raises:
        SgoolError: npm is missing or fails, or the archive is not the known one.
    """
    archive = work / ARCHIVE
    if not archive.is_file():
        _download(work)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SgoolError(f"{archive}: expected SHA-256 {SHA256}, got {digest}; delete it and run `fetch` again")
    with tarfile.open(archive) as file:
        wanted = [m for m in file if m.isfile() and m.name.startswith(("package/img/google/64/", "package/README"))]
        file.extractall(work, members=wanted, filter="data")
    return find_emoji(work)


def _download(work: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise SgoolError(
            f"npm is not installed, and {PACKAGE} comes from the npm registry: install npm (Debian: apt install npm), "
            "or point --emoji at an unpacked copy of the package"
        )
    work.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([npm, "pack", PACKAGE], cwd=work, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise SgoolError(
            f"`npm pack {PACKAGE}` failed with exit code {done.returncode} ({last[0]}); check the network, or point "
            "--emoji at an unpacked copy of the package"
        )
