"""The instruction of HPSv3, read from the authors' own file, which is not run.

Nothing here imports torch, so that a configuration can be checked before a network loads.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from sgool.errors import SgoolError

#: Stands for the prompt in the instruction.
PROMPT = "{text_prompt}"
#: The token at which the reward is read.
REWARD_TOKEN = "<|Reward|>"
_FILE = "hpsv3/dataset/data_collator_qwen.py"
_PARTS = ("INSTRUCTION", "prompt_with_special_token")


def read_instruction(path: str | None) -> str:
    """Returns what HPSv3 is told beside an image: a text with ``{text_prompt}`` and, behind it, one ``<|Reward|>``.

    Args:
        path: The authors' file hpsv3/dataset/data_collator_qwen.py; None: that of the installed package ``hpsv3``,
            which is not imported. The text is its variable ``INSTRUCTION`` and, behind it,
            ``prompt_with_special_token``.

    Raises:
        SgoolError: There is no such file, it is no Python, or lacks a variable or a mark.
    """
    file = _instruction_file(path)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise SgoolError(f"expected {_expected()}, got {str(file)!r}, which is no Python: {error}") from error
    texts = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            texts.update({target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)})
    if missing := [name for name in _PARTS if name not in texts]:
        raise SgoolError(f"expected {_expected()}, got {str(file)!r}, which has no text named {' or '.join(missing)}")
    instruction, end = (texts[name] for name in _PARTS)
    # The public code formats the instruction, so that doubled braces would be single ones.
    whole = instruction.replace("{{", "{").replace("}}", "}") + end
    if instruction.count(PROMPT) != 1 or whole.count(REWARD_TOKEN) != 1 or REWARD_TOKEN in instruction:
        raise SgoolError(
            f"expected {_expected()}, got {str(file)!r}: INSTRUCTION must have {PROMPT} once, and "
            f"prompt_with_special_token {REWARD_TOKEN} once"
        )
    return whole


def instruction_problems(path: str | None, key: str) -> Iterator[str]:
    """Yields a problem if the instruction cannot be read; ``key`` is the dotted key of the configuration."""
    try:
        read_instruction(path)
    except SgoolError as error:
        yield f"`{key}`: {error}"


def _instruction_file(path: str | None) -> Path:
    if path is not None:
        if not (file := Path(path).expanduser()).is_file():
            raise SgoolError(
                f"there is no file {path!r} (relative paths start at {Path.cwd()}). Expected {_expected()}"
            )
        return file
    package = find_spec("hpsv3")
    folders = [] if package is None else package.submodule_search_locations or []
    files = [file for folder in folders if (file := Path(folder).parent / _FILE).is_file()]
    if not files:
        raise SgoolError(
            f"null stands for the installed package hpsv3, which is not there. Expected {_expected()}; fetch it and "
            "give its path"
        )
    return files[0]


def _expected() -> str:
    return (
        f"the file {_FILE} of https://github.com/MizzenAI/HPSv3, whose variables {' and '.join(_PARTS)} are the text "
        "that the model was trained with"
    )
