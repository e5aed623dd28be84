"""Finds the photos of a command: files, patterns and folders, each with its own text from a file of captions."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sgool.config.paths import asset_path
from sgool.errors import ConfigError
from sgool.models.formats import suffixes
from sgool.prompts import read_prompts

#: Names of the column that says which photo a caption is of, in any case; the first that a file has is taken.
IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "photo", "path")
#: An override of Hydra: KEY=VALUE, +KEY=VALUE, ++KEY=VALUE, or ~KEY.
_OVERRIDE = re.compile(r"(\+{0,2}[A-Za-z_][\w./@-]*=.*|~[A-Za-z_][\w.@]*(=.*)?)", re.DOTALL)


@dataclass(frozen=True)
class Photo:
    """A photo and what the objective is told of it.

    Attributes:
        path: The file.
        text: Its caption; empty: it has none of its own.
        seed: Its row's own seed; None: it has none.
        negative_prompt: Its row's own negative prompt; None: it has none.
        phrases: Its row's own phrases; None: it has none.
    """

    path: Path
    text: str = ""
    seed: int | None = None
    negative_prompt: str | None = None
    phrases: tuple[str, ...] | None = None


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits what a command was given into photos and overrides; a file that exists is a photo, whatever its name."""
    photos: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        is_override = _OVERRIDE.fullmatch(argument) and not Path(argument).exists()
        (overrides if is_override else photos).append(argument)
    return photos, overrides


def find_photos(given: Sequence[str | Path], captions: str | Path | None = None) -> tuple[list[Photo], list[str]]:
    """Finds photos, each once, in the order in which they are given; those of a folder or pattern by name.

    Args:
        given: Files, patterns with ``*``, ``?`` or ``**``, and folders, of which the files with the suffix of an image
            count; empty: all photos of ``captions``.
        captions: A prompt file in any format of `sgool.prompts.read_prompts`, with a column of photos besides
            (`IMAGE_COLUMNS`): a path from the file's folder or from the current one, or the photo's bare name. A photo
            in several rows is there once for each. The columns ``seed``, ``negative_prompt`` and ``phrases`` count
            for their rows.

    Returns:
        The photos, and sentences on what was left out.

    Raises:
        ConfigError: Nothing was found, or the captions are no sound file or name a missing photo where they alone say
            which photos there are; all problems at once.
    """
    rows = [] if captions is None else _captions(Path(captions).expanduser())
    problems: list[str] = []
    notes: list[str] = []
    paths = [path for one in given for path in _expanded(str(one), problems, notes)]
    if not given:
        paths = [row.path for row in rows]
        problems += [
            f"--captions: {captions}, row {number}: expected an image file, but {str(row.path)!r} does not exist (a "
            f"relative path starts at the folder of the captions or at {Path.cwd()})"
            for number, row in enumerate(rows, start=1)
            if not row.path.exists()
        ]
    if not paths and not problems:
        problems.append(
            "IMAGE: expected a photo, a pattern or a folder, got none; sgool edit PHOTO [PHOTO...] KEY=VALUE"
        )
    if problems:
        raise ConfigError(problems)
    unique: dict[Path, Path] = {}
    for path in paths:
        unique.setdefault(path.resolve(), path)
    photos: list[Photo] = []
    used: set[int] = set()
    for path in unique.values():
        own = [number for number, row in enumerate(rows) if _is_same(row.path, path)]
        used.update(own)
        photos += [replace(rows[number], path=path) for number in own] or [Photo(path)]
    if left := len(rows) - len(used):
        notes.append(f"{left} of {len(rows)} rows of {captions} name no photo of this command")
    return photos, notes


def _expanded(given: str, problems: list[str], notes: list[str]) -> list[Path]:
    """The files that an argument stands for; one that is missing stays, for whoever opens it to say so."""
    path = Path(asset_path(given)).expanduser()
    if path.is_dir():
        what, found = f"the folder {given!r}", list(path.iterdir())
    elif not path.exists() and glob.has_magic(given):
        what, found = f"the pattern {given!r}", [Path(name) for name in glob.glob(str(path), recursive=True)]
    else:
        return [path]
    files = sorted(file for file in found if file.is_file() and not file.name.startswith("."))
    known = suffixes()
    images = [file for file in files if file.suffix.lower() in known]
    if not images:
        problems.append(
            f"IMAGE: expected images in {what}, got none among its {len(files)} files (relative paths start at "
            f"{Path.cwd()})"
        )
    elif len(images) < len(files):
        notes.append(f"{len(files) - len(images)} of {len(files)} files in {what} are no images")
    return images


def _captions(file: Path) -> list[Photo]:
    """Photo, text, seed and negative prompt of each row."""
    if not file.is_file():
        raise ConfigError([f"--captions: there is no file {str(file)!r} (relative paths start at {Path.cwd()})"])
    try:
        rows = read_prompts(file, duplicates="keep")
    except ConfigError as error:
        raise ConfigError([f"--captions: {_of_texts(problem)}" for problem in error.problems]) from error
    found = [_image_of(row.metadata) for row in rows]
    bare = [number for number, name in enumerate(found, start=1) if not name]
    if bare:
        names = sorted({name for row in rows for name in row.metadata})
        raise ConfigError(
            [
                f"--captions: {file}: expected a column of photos named {' or '.join(IMAGE_COLUMNS)}, filled in each "
                f"row; {len(bare)} of {len(rows)} rows have none, the first is row {bare[0]} (other columns: "
                f"{', '.join(names) or 'none'})"
            ]
        )
    return [
        Photo(_placed(name, file.parent), row.prompt, row.seed, row.negative_prompt, row.phrases)
        for name, row in zip(found, rows, strict=True)
    ]


def _of_texts(problem: str) -> str:
    """A problem of a prompt file in the words of captions: a photo may have no text of its own, a row may not."""
    told = problem.removesuffix("empty prompt")
    if told == problem:
        return problem
    return f"{told}expected a text, got an empty cell; leave the row out, and --text is the text of its photo"


def _image_of(metadata: Mapping[str, Any]) -> str:
    spelled = {str(name).strip().lower(): value for name, value in metadata.items()}
    return next((str(spelled[name]).strip() for name in IMAGE_COLUMNS if name in spelled), "")


def _placed(name: str, folder: Path) -> Path:
    """A path from the captions' folder where such a file exists, else as it stands."""
    beside = folder / Path(name).expanduser()
    return beside if beside.exists() else Path(asset_path(name)).expanduser()


def _is_same(named: Path, path: Path) -> bool:
    """Whether a row names a photo: the same file, or a bare name that is not one of another file."""
    if named.exists():
        return named.resolve() == path.resolve()
    return named == path or (named.parent == Path() and named.name == path.name)
