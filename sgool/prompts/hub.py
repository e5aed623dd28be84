"""Reads data sets with the `datasets` library, from the hub, its cache, or a folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config.network import out_of_reach
from sgool.config.paths import TEXT, prompt_sets
from sgool.errors import ConfigError
from sgool.prompts.columns import Columns
from sgool.prompts.parquet import arrow_records, one_line, wanted_columns
from sgool.prompts.text import Problems

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_PREFIX = "hub:"
_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
#: Seconds until a hub that does not answer counts as out of reach.
_PATIENCE = 10


def is_dataset(source: str | Path) -> bool:
    """Whether ``data.prompts`` means a data set ("hub:OWNER/NAME" or a folder), not a file or a built-in set."""
    if str(source).startswith((_PREFIX, TEXT)):
        return str(source).startswith(_PREFIX)
    return Path(source).expanduser().is_dir() and str(source) not in prompt_sets()


def dataset_name(source: str | Path) -> str:
    """Returns a data set's name without its owner or the folders above it."""
    return Path(str(source).removeprefix(_PREFIX)).expanduser().absolute().name


def dataset_records(
    source: str | Path,
    split: str | None,
    subset: str | None,
    revision: str | None,
    columns: Columns,
    problems: Problems,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads the rows of one split; problems of its columns are added to ``problems``.

    Raises:
        ConfigError: The `datasets` library is missing; there is no such data set, subset, revision or split; or the
            data set cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError([f"{source}: data sets need the datasets library: pip install 'sgool[hub]'"]) from error
    name = str(source).removeprefix(_PREFIX)
    with _quiet():
        if name and Path(name).expanduser().is_dir():
            loaded = _from_folder(source, Path(name).expanduser(), subset)
        else:
            loaded = _from_hub(name, subset, revision)
        data = _split(source, loaded, split)
        names = wanted_columns(data.features.arrow_schema, columns, problems)
        classes = {name: kind.names for name, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)}
        if problems or not len(data):
            return iter(())
        try:
            # In Arrow's format images and audio are not decoded, and columns that are not selected are not read.
            return arrow_records(data.select_columns(names).with_format("arrow")[:], classes)
        except Exception as error:  # a broken file can lead to any error
            raise ConfigError([f"{source}: cannot be read as a data set ({one_line(error)})"]) from error


def _from_folder(source: str | Path, folder: Path, subset: str | None) -> Dataset | DatasetDict:
    import datasets

    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder), subset)
    except Exception as error:  # the readers of the file formats raise errors of many kinds
        raise ConfigError([f"{source}: cannot be read as a data set ({one_line(error)})"]) from error


def _from_hub(name: str, subset: str | None, revision: str | None) -> DatasetDict:
    import datasets

    if not _ID.fullmatch(name):
        raise ConfigError([f"`data.prompts`: expected hub:OWNER/NAME or hub:FOLDER, got {_PREFIX + name!r}"])
    why = _out_of_reach()
    try:
        with _offline() if why else nullcontext():
            loaded = datasets.load_dataset(name, subset, revision=revision)
    except Exception as error:  # errors of HTTP, of the hub, of the cache's files, of the formats
        if why is None:
            reason = f"`data.prompts`: {_PREFIX}{name} cannot be loaded ({one_line(error)})"
        else:
            reason = (
                f"`data.prompts`: {_PREFIX}{name} is not in the cache {datasets.config.HF_DATASETS_CACHE}, and the hub "
                f"is out of reach ({why}). Load it once where there is a network, or give a file or folder with "
                f"data.prompts=PATH. ({one_line(error)})"
            )
        raise ConfigError([reason]) from error
    _check_revision(name, loaded, revision)
    return loaded


def _out_of_reach() -> str | None:
    """Returns the reason why the hub cannot be reached, or None if it can.

    One short request finds this out first, because the library itself tries for minutes before it uses its cache.
    """
    import datasets

    if datasets.config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return out_of_reach(datasets.config.HF_ENDPOINT, _PATIENCE)


def _split(source: str | Path, loaded: Dataset | DatasetDict, split: str | None) -> Dataset:
    import datasets

    if isinstance(loaded, datasets.Dataset):
        # A single split that was saved; its name is known if it had one.
        there = {str(loaded.split or "train"): loaded}
        split = split if loaded.split is not None else None
    else:
        there = {str(name): data for name, data in loaded.items()}
    if split is None and len(there) == 1:
        return next(iter(there.values()))
    if split not in there:
        listed = ", ".join(there) or "none"
        got = "null" if split is None else repr(split)
        raise ConfigError([f"`data.split`: expected a split of {source}, which has {listed}; got {got}"])
    return there[split]


def _check_revision(name: str, loaded: DatasetDict, revision: str | None) -> None:
    """Raises an error if the loaded copy is of another commit.

    Offline, the library takes its newest copy, whatever its revision; the copy's folder is named after the commit.
    """
    if revision is None or re.fullmatch(r"[0-9a-f]{40}", revision) is None:
        return
    files = [file["filename"] for data in loaded.values() for file in data.cache_files]
    found = {Path(file).parent.name for file in files}
    other = sorted(commit for commit in found - {revision} if re.fullmatch(r"[0-9a-f]{40}", commit))
    if other:
        raise ConfigError([f"`data.revision`: expected {revision} of {name}, but the cache has {', '.join(other)}"])


@contextmanager
def _offline() -> Iterator[None]:
    """Switches the library to its offline mode, whose environment variable it reads only at import."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the library's progress bars where the output is no terminal."""
    import datasets

    hide = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()
