"""Makes the pairs of a run: every prompt with every seed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from sgool.config.paths import TEXT, prompt_file
from sgool.errors import ConfigError
from sgool.prompts.hub import dataset_name, is_dataset
from sgool.prompts.readers import read_prompts
from sgool.prompts.rows import PromptRow
from sgool.types import PromptSeed

#: The valid seeds: those of torch's generators, which take 64 bits.
_SEEDS = range(2**63)


def load_pairs(
    prompts: str | Path,
    *,
    name: str | None = None,
    seeds: int | Sequence[int] = (0,),
    limit: int | None = None,
    indices: str | Sequence[int] | None = None,
    categories: str | Sequence[str] | None = None,
    negative_prompt: str = "",
    **reading: Any,
) -> list[PromptSeed]:
    """Makes the pairs of a prompt file or data set; the arguments are the keys of ``data`` in the configuration.

    Args:
        prompts: Prompt file, data set or "text:" and prompts, see `sgool.prompts.readers.read_prompts`.
        name: Name of the data set in pair ids; None: the file's name, "emoji_world-demo" for a built-in set, or "text".
        seeds: A list of seeds, or how many from 0 on.
        limit: Keep at most this many pairs, from the start of the list that the other arguments make.
        indices: Keep only these prompts of the file, counted from 0: a list, or "START:STOP", where STOP is excluded
            as in Python's slices. They stay in the file's order.
        categories: Keep only prompts of these categories; case does not matter.
        negative_prompt: Text of the unconditional pass.
        reading: Further arguments of `sgool.prompts.readers.read_prompts`: ``prompt_column``, ``split``, ...

    Raises:
        ConfigError: The file or the seeds have a problem, or the file does not have such indices or categories.
    """
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
    pairs = expand_pairs(chosen, seeds, dataset=name or _dataset_name(prompts), negative_prompt=negative_prompt)
    return pairs[:limit]


def expand_pairs(
    rows: Iterable[PromptRow | str],
    seeds: int | Sequence[int] = (0,),
    *,
    dataset: str = "prompts",
    negative_prompt: str = "",
) -> list[PromptSeed]:
    """Combines every prompt with every seed to a list of pairs, prompt by prompt.

    Args:
        rows: Prompts, or rows of a prompt file. A prompt that occurs twice is run twice, since ids hold the index.
        seeds: A list of seeds, or how many from 0 on.
        dataset: Name of the data set in pair ids.
        negative_prompt: Text of the unconditional pass.

    Raises:
        ConfigError: There are no seeds, or one is not a whole number in [0, 2^63).
    """
    numbers = _seed_list(seeds)
    every = (PromptRow(row.strip(), index) if isinstance(row, str) else row for index, row in enumerate(rows))
    return [
        PromptSeed(row.prompt, seed, row.index, row.category, dataset, negative_prompt, row.metadata)
        for row in every
        for seed in numbers
    ]


def _seed_list(seeds: int | Sequence[int]) -> list[int]:
    """Returns the seeds in their order, without repetitions."""
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ConfigError([f"`data.seeds`: expected at least one seed, got {seeds}"])
        return list(range(seeds))
    if isinstance(seeds, (str, bool)) or not isinstance(seeds, Iterable):
        raise ConfigError([f"`data.seeds`: expected a list of whole numbers or how many, got {seeds!r}"])
    numbers = list(seeds)
    wrong = [seed for seed in numbers if isinstance(seed, bool) or not isinstance(seed, int) or seed not in _SEEDS]
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
