"""Quotes texts for Hydra's grammar and for the shell, so that a message can print the override that works."""

from __future__ import annotations

import re
import shlex
from typing import Any


def without_references(text: Any) -> Any:
    r"""Returns a text in which OmegaConf takes ``${`` as it is, and not for a reference; other values are unchanged."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text) if isinstance(text, str) else text


def hydra_quoted(text: str) -> str:
    r"""Returns a text in quotes for Hydra's grammar, which reads it back character by character.

    Backslashes count only before a quote, before ``${`` and at the end: there they are doubled.
    """
    text = re.sub(r'(\\*)"', r'\1\1\\"', without_references(text))
    return '"' + re.sub(r"(\\+)\Z", r"\1\1", text) + '"'


def quoted_override(key: str, text: str) -> str:
    """Returns the override of a key by a text, as it is typed in a shell: ``'run_dir="~/x"'``."""
    return shlex.quote(f"{key}={hydra_quoted(text)}")


def list_override(key: str, entries: str) -> str:
    """Returns the override of a key by a list, as it is typed in a shell (zsh expands bare brackets itself)."""
    return shlex.quote(f"{key}=[{entries}]")


def prompt_command(prompt: str) -> str:
    """Returns, for messages, the command for a single prompt, or for an example if it is empty.

    Args:
        prompt: The prompt that somebody has typed elsewhere.
    """
    text = " ".join(prompt.split()) or "a green cat"
    quoted = shlex.quote(text) if re.search(r'["$`\\\\!]', text) else f'"{text}"'
    return f"sgool fit --prompt {quoted}"
