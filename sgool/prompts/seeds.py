"""Makes the pairs of a run: every prompt with every seed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sgool.config.paths import TEXT, prompt_file
from sgool.errors import ConfigError
from sgool.prompts.hub import dataset_name, is_dataset
from sgool.prompts.noun_chunks import SPACY, chunk_phrases
from sgool.prompts.readers import read_prompts
from sgool.prompts.rows import SEEDS, PromptRow
from sgool.types import DataIds, PromptSeed, without_seed


@dataclass(frozen=True)
class PromptData:
    """A prompt file or data set, and what is run of it.

    Attributes:
        pairs: The pairs to run.
        ids: Which pairs belong to the data set, whatever `data.limit`, `data.indices`, `data.categories` and
            `data.seeds` choose of it.
        notes: Sentences that the user should know.
    """

    pairs: tuple[PromptSeed, ...]
    ids: DataIds
    notes: tuple[str, ...] = ()


def load_data(prompts: str | Path, **options: Any) -> PromptData:
    """Reads a prompt file or data set for a run: like `load_pairs`, and returns its warnings as notes.

    Raises:
        ConfigError: As `load_pairs`.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairs, ids = _load(prompts, **options)
    for other in (entry for entry in caught if entry.category is not UserWarning):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    notes = dict.fromkeys(str(entry.message) for entry in caught if entry.category is UserWarning)
    return PromptData(tuple(pairs), ids, tuple(notes))


def load_pairs(
    prompts: str | Path,
    *,
    name: str | None = None,
    seeds: int | Sequence[int] = (0,),
    limit: int | None = None,
    indices: str | Sequence[int] | None = None,
    categories: str | Sequence[str] | None = None,
    negative_prompt: str = "",
    phrases: str = "rule",
    **reading: Any,
) -> list[PromptSeed]:
    """Makes the pairs of a prompt file or data set; the arguments are the keys of ``data`` in the configuration.

    Args:
        prompts: Prompt file, data set or "text:" and prompts, see `sgool.prompts.readers.read_prompts`. A row with a
            seed or a negative prompt of its own has that one alone.
        name: Name of the data set in pair ids; None: the file's name, "emoji_world-demo" for a built-in set, or "text".
        seeds: A list of seeds, or how many from 0 on, for rows without a seed of their own.
        limit: Keep at most this many pairs, from the start of the list that the other arguments make.
        indices: Keep only these prompts of the file, counted from 0: a list, or "START:STOP", where STOP is excluded
            as in Python's slices. They stay in the file's order.
        categories: Keep only prompts of these categories; case does not matter.
        negative_prompt: Text of the unconditional pass, for rows without one of their own.
        phrases: What finds the phrases of prompts without phrases of their own in the file: "rule", or "spacy:" and a
            pipeline (`sgool.prompts.noun_chunks.chunk_phrases`).
        reading: Further arguments of `sgool.prompts.readers.read_prompts`: ``prompt_column``, ``split``, ...

    Raises:
        ConfigError: The file or the seeds have a problem, the file does not have such indices or categories, or spaCy
            or its pipeline is missing.
    """
    return _load(
        prompts,
        name=name,
        seeds=seeds,
        limit=limit,
        indices=indices,
        categories=categories,
        negative_prompt=negative_prompt,
        phrases=phrases,
        **reading,
    )[0]


def _load(
    prompts: str | Path,
    *,
    name: str | None = None,
    seeds: int | Sequence[int] = (0,),
    limit: int | None = None,
    indices: str | Sequence[int] | None = None,
    categories: str | Sequence[str] | None = None,
    negative_prompt: str = "",
    phrases: str = "rule",
    **reading: Any,
) -> tuple[list[PromptSeed], DataIds]:
    rows = read_prompts(prompts, **reading)
    problems: list[str] = []
    chosen = rows if indices is None else _with_indices(rows, indices, problems)
    if categories is not None:
        wanted = _with_categories(rows, [categories] if isinstance(categories, str) else categories, problems)
        there = {row.index for row in wanted}
        chosen = [row for row in chosen if row.index in there]
    if not chosen and not problems:
        problems.append("`data.indices` and `data.categories`: together they leave no prompt")
    if problems:
        raise ConfigError(problems)
    dataset = name or _dataset_name(prompts)
    chosen = _with_phrases(chosen, phrases)
    pairs = expand_pairs(chosen, seeds, dataset=dataset, negative_prompt=negative_prompt)
    if reading.get("duplicates", "error") != "keep":
        pairs = _each_once(pairs, drop=reading.get("duplicates") == "drop")
    given = {without_seed(pair.pair_id): pair.phrases for pair in pairs if pair.phrases}
    return pairs[:limit], replace(_ids(rows, dataset, negative_prompt), phrases=given)


def _with_phrases(rows: Sequence[PromptRow], phrases: str) -> list[PromptRow]:
    """Returns rows with the phrases of a pipeline of spaCy, if ``phrases`` names one, where they have none."""
    if not phrases.startswith(SPACY):
        if phrases != "rule":
            raise ConfigError([f"`data.phrases`: expected rule, or {SPACY} and a pipeline of spaCy, got {phrases!r}"])
        return list(rows)
    without = [row.prompt for row in rows if row.phrases is None]
    found = iter(chunk_phrases(without, phrases.removeprefix(SPACY)))
    return [row if row.phrases is not None else replace(row, phrases=next(found)) for row in rows]


def _each_once(pairs: Sequence[PromptSeed], *, drop: bool) -> list[PromptSeed]:
    """Returns pairs without those that are another row's again: one row names the seed that `data.seeds` gives another.

    Raises:
        ConfigError: There are such pairs, and they are not to be dropped.
    """
    first: dict[tuple[object, ...], PromptSeed] = {}
    problems = []
    for pair in pairs:
        same = first.setdefault((pair.prompt, pair.category, pair.seed, pair.negative_prompt), pair)
        if same.index != pair.index:
            problems.append(
                f"`data.prompts`: {pair.prompt!r} with seed {pair.seed} stands twice, as prompts {same.index} and "
                f"{pair.index} (counted from 0): a seed or negative prompt of a row is what the other gets from "
                "`data`; data.duplicates=drop runs such a pair once, data.duplicates=keep runs both"
            )
    if problems and not drop:
        raise ConfigError(problems)
    return list(first.values())


def _ids(rows: Sequence[PromptRow], dataset: str, negative_prompt: str) -> DataIds:
    """Returns which pairs a data set has, with any seed for a row without a seed of its own."""
    own = [pair.pair_id for row in rows if row.seed is not None for pair in _pairs(row, (), dataset, negative_prompt)]
    others = (row for row in rows if row.seed is None)
    first = [pair.pair_id for row in others for pair in _pairs(row, (0,), dataset, negative_prompt)]
    return DataIds(frozenset(own), frozenset(map(without_seed, first)))


def expand_pairs(
    rows: Iterable[PromptRow | str],
    seeds: int | Sequence[int] = (0,),
    *,
    dataset: str = "prompts",
    negative_prompt: str = "",
) -> list[PromptSeed]:
    """Combines every prompt with every seed to a list of pairs, prompt by prompt.

    A row with a seed of its own makes one pair, with that seed; a row's own negative prompt counts in place of
    ``negative_prompt``.

    Args:
        rows: Prompts, or rows of a prompt file. A prompt that occurs twice is run twice, since ids hold the index.
        seeds: A list of seeds, or how many from 0 on.
        dataset: Name of the data set in pair ids.
        negative_prompt: Text of the unconditional pass.

    Raises:
        ConfigError: There are no seeds, or one is not a whole number in [0, 2^63).
    """
    numbers = _seed_list(seeds)
    every = [PromptRow(row.strip(), index) if isinstance(row, str) else row for index, row in enumerate(rows)]
    own = sum(row.seed is not None for row in every)
    if own and numbers != [0]:
        given = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
        warnings.warn(
            f"`data.seeds` ({given}) counts for {len(every) - own} of {len(every)} prompts: the others have a seed of "
            "their own, with which each is run once; data.seed_column='' leaves that column out",
            stacklevel=2,
        )
    return [pair for row in every for pair in _pairs(row, numbers, dataset, negative_prompt)]


def _pairs(row: PromptRow, seeds: Sequence[int], dataset: str, negative_prompt: str) -> list[PromptSeed]:
    """Returns the pairs of a row: with its own seed and negative prompt where it has them."""
    negative = negative_prompt if row.negative_prompt is None else row.negative_prompt
    own = seeds if row.seed is None else (row.seed,)
    first = PromptSeed(
        row.prompt, 0, row.index, row.category, dataset, negative, metadata=row.metadata, phrases=row.phrases
    )
    return [replace(first, seed=seed) for seed in own]


def _seed_list(seeds: int | Sequence[int]) -> list[int]:
    """Returns the seeds in their order, without repetitions."""
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ConfigError([f"`data.seeds`: expected at least one seed, got {seeds}"])
        return list(range(seeds))
    if isinstance(seeds, (str, bool)) or not isinstance(seeds, Iterable):
        raise ConfigError([f"`data.seeds`: expected a list of whole numbers or how many, got {seeds!r}"])
    numbers = list(seeds)
    wrong = [seed for seed in numbers if isinstance(seed, bool) or not isinstance(seed, int) or seed not in SEEDS]
    if wrong or not numbers:
        got = ", ".join(map(repr, wrong)) or "an empty list"
        raise ConfigError([f"`data.seeds`: expected whole numbers from 0 to 2^63 - 1, got {got}"])
    unique = list(dict.fromkeys(numbers))
    if len(unique) < len(numbers):
        warnings.warn(f"`data.seeds`: left out {len(numbers) - len(unique)} repeated seeds", stacklevel=3)
    return unique


def _with_indices(rows: list[PromptRow], indices: str | Sequence[int], problems: list[str]) -> list[PromptRow]:
    last = rows[-1].index
    if isinstance(indices, str):
        parts = re.fullmatch(r"(\d*):(\d*)", indices.strip())
        if parts is None:
            problems.append(f"`data.indices`: expected a range START:STOP or a list of indices, got {indices!r}")
            return []
        wanted: Container[int] = range(int(parts[1] or 0), int(parts[2] or last + 1))
        chosen = [row for row in rows if row.index in wanted]
        if not chosen:
            problems.append(f"`data.indices`: {indices!r} has no prompt in it; the file's go from 0 to {last}")
        return chosen
    numbers = list(indices)
    wrong = [number for number in numbers if type(number) is not int or not 0 <= number <= last]
    if wrong or not numbers:
        got = ", ".join(map(repr, wrong[:10])) + (", ..." if len(wrong) > 10 else "") or "an empty list"
        problems.append(f"`data.indices`: expected whole numbers from 0 to {last}, the file's last prompt, got {got}")
    wanted = frozenset(numbers)
    return [row for row in rows if row.index in wanted]


def _with_categories(rows: list[PromptRow], categories: Sequence[str], problems: list[str]) -> list[PromptRow]:
    wanted = {category.strip().casefold() for category in categories}
    there = {row.category.casefold(): row.category for row in rows if row.category}
    unknown = sorted(wanted - set(there))
    if unknown:
        problems.append(
            f"`data.categories`: the prompts have no category {' or '.join(map(repr, unknown))}; they have "
            f"{', '.join(there.values()) or 'none'}"
        )
    return [row for row in rows if row.category.casefold() in wanted]


def _dataset_name(prompts: str | Path) -> str:
    if str(prompts).startswith(TEXT):
        return TEXT.removesuffix(":")
    if is_dataset(prompts):
        return dataset_name(prompts)
    path = prompt_file(prompts)
    # The stem of a built-in set's file ("demo") alone would be ambiguous.
    own = path == Path(prompts).expanduser()
    if not own:
        return str(prompts).replace("/", "-")
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).stem
