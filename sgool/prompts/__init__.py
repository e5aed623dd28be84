"""Prompt sets: reads files of many formats, and combines prompts and seeds to the pairs of a run."""

from __future__ import annotations

from sgool.prompts.phrases import phrases_of, split_phrases
from sgool.prompts.readers import read_prompts
from sgool.prompts.rows import PromptRow
from sgool.prompts.seeds import PromptData, expand_pairs, load_data, load_pairs

__all__ = [
    "PromptData",
    "PromptRow",
    "expand_pairs",
    "load_data",
    "load_pairs",
    "phrases_of",
    "read_prompts",
    "split_phrases",
]
