"""Prompts times seeds: the pairs of a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from sgool.errors import ConfigError
from sgool.paths import prompt_file
from sgool.prompts.readers import PromptRow, read_prompts
from sgool.types import PromptSeed

#: Seeds are those of torch generators, which take 64 bits.
_SEEDS = range(2**63)


def load_pairs(
    prompts: str | Path,
    *,
    name: str | None = None,
    seeds: int | Sequence[int] = (0,),
    limit: int | None = None,
    categories: str | Sequence[str] | None = None,
    negative_prompt: str = "",
) -> list[PromptSeed]:
    """The pairs of a prompt file or built-in prompt set; the arguments are the keys of ``data`` in the configuration.

    Args:
        prompts: See `sgool.prompts.readers.read_prompts`.
        name: Name of the data set in pair ids; None: after the file, "emoji_world-demo" for a built-in set.
        seeds: A list, or how many from 0 on.
        limit: At most this many pairs, from the start of the list that all the rest makes.
        categories: Keep only these, whatever their case.
        negative_prompt: Text of the unconditional pass.

    Raises:
        ConfigError: What is wrong with the file, the seeds, or categories that the file does not have.
    """
    rows = read_prompts(prompts)
    if categories is not None:
        rows = _of_categories(rows, [categories] if isinstance(categories, str) else categories)
    dataset = name or _dataset_name(prompts)
    pairs = expand_pairs(rows, seeds, dataset=dataset, negative_prompt=negative_prompt)
    return pairs[:limit]


def expand_pairs(
    rows: Iterable[PromptRow | str],
    seeds: int | Sequence[int] = (0,),
    *,
    dataset: str = "prompts",
    negative_prompt: str = "",
) -> list[PromptSeed]:
    """Every prompt with every seed, prompt by prompt.

    A prompt that stands there twice is one problem: the repetition is left out with a warning, and keeps its index, so
    that no other pair's id changes.

    Args:
        rows: Prompts, or rows of a prompt file.
        seeds: A list, or how many from 0 on.
        dataset: Name of the data set in pair ids.
        negative_prompt: Text of the unconditional pass.

    Raises:
        ConfigError: No seeds, or one that is not a whole number in [0, 2^63).
    """
    numbers = _seed_list(seeds)
    unique: dict[str, PromptRow] = {}
    repeated = []
    for index, row in enumerate(rows):
        row = PromptRow(row.strip(), index) if isinstance(row, str) else row
        if row.prompt in unique:
            repeated.append(row.prompt)
        unique.setdefault(row.prompt, row)
    if repeated:
        shown = ", ".join(map(repr, repeated[:3])) + (", ..." if len(repeated) > 3 else "")
        warnings.warn(f"{dataset}: left out {len(repeated)} repeated prompts: {shown}", stacklevel=2)
    return [
        PromptSeed(row.prompt, seed, row.index, row.category, dataset, negative_prompt, row.metadata)
        for row in unique.values()
        for seed in numbers
    ]


def _seed_list(seeds: int | Sequence[int]) -> list[int]:
    """The seeds in their order, each once."""
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


def _of_categories(rows: list[PromptRow], categories: Sequence[str]) -> list[PromptRow]:
    wanted = {category.strip().casefold() for category in categories}
    there = {row.category.casefold(): row.category for row in rows if row.category}
    unknown = sorted(wanted - set(there))
    if unknown:
        raise ConfigError(
            [
                f"`data.categories`: the prompts have no category {' or '.join(map(repr, unknown))}; they have "
                f"{', '.join(there.values()) or 'none'}"
            ]
        )
    return [row for row in rows if row.category.casefold() in wanted]


def _dataset_name(prompts: str | Path) -> str:
    path = prompt_file(prompts)
    # For a built-in set the file's stem ("demo") says too little.
    return path.stem if path == Path(prompts).expanduser() else str(prompts).replace("/", "-")
