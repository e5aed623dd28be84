"""Data sets of the `datasets` library: from the hub, from its cache, or from a folder."""

from __future__ import annotations

import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config.paths import prompt_sets
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
    """Whether ``data.prompts`` means a data set, "hub:OWNER/NAME" or a folder, and not a file or a built-in set."""
    if str(source).startswith(_PREFIX):
        return True
    return Path(source).expanduser().is_dir() and str(source) not in prompt_sets()


def dataset_name(source: str | Path) -> str:
    """A data set's name without its owner or the folders above it."""
    return Path(str(source).removeprefix(_PREFIX)).expanduser().absolute().name


def dataset_records(
    source: str | Path,
    split: str | None,
    subset: str | None,
    revision: str | None,
    columns: Columns,
    problems: Problems,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of one split; what is wrong with its columns goes to ``problems``.

    Raises:
        ConfigError: No `datasets` library; no such data set, subset, revision or split; or no way to get at it.
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
            # As Arrow: images, audio and the like are neither decoded nor, without their columns, read.
            return arrow_records(data.select_columns(names).with_format("arrow")[:], classes)
        except Exception as error:  # whatever a broken byte leads to
            raise ConfigError([f"{source}: cannot be read as a data set ({one_line(error)})"]) from error


def _from_folder(source: str | Path, folder: Path, subset: str | None) -> Dataset | DatasetDict:
    import datasets

    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder), subset)
    except Exception as error:  # whatever the reader of the files' format raises
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
    """Why the hub cannot be asked, if it cannot.

    Asked first, and only for a sign of life: the library itself tries for minutes before it looks into its cache.
    """
    import datasets

    if datasets.config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(datasets.config.HF_ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        return None  # an answer all the same
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        # Which certificates to trust is the library's business, which has settings of its own for them.
        return None if isinstance(reason, ssl.SSLError) else str(reason) or type(reason).__name__
    return None


def _split(source: str | Path, loaded: Dataset | DatasetDict, split: str | None) -> Dataset:
    import datasets

    if isinstance(loaded, datasets.Dataset):
        # Saved alone: it knows which split it was, if any.
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
    """Offline, the library takes its newest copy, of whatever revision; the copy's folder has the commit's name."""
    if revision is None or re.fullmatch(r"[0-9a-f]{40}", revision) is None:
        return
    files = [file["filename"] for data in loaded.values() for file in data.cache_files]
    found = {Path(file).parent.name for file in files}
    other = sorted(commit for commit in found - {revision} if re.fullmatch(r"[0-9a-f]{40}", commit))
    if other:
        raise ConfigError([f"`data.revision`: expected {revision} of {name}, but the cache has {', '.join(other)}"])


@contextmanager
def _offline() -> Iterator[None]:
    """The library's offline mode; it is read from the environment at import, which was before now."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars where nobody watches."""
    import datasets

    hide = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()
