"""Prompt sets: reads files of many formats, and combines prompts and seeds to the pairs of a run."""

from __future__ import annotations

from sgool.prompts.readers import read_prompts
from sgool.prompts.rows import PromptRow
from sgool.prompts.seeds import expand_pairs, load_pairs

__all__ = ["PromptRow", "expand_pairs", "load_pairs", "read_prompts"]
