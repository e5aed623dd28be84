"""Runs the code blocks of a documentation page, from top to bottom, in one folder.

Blocks with a title are files that the reader is told to save. Python is run as it stands. Bash is given to bash, so
that quotes, loops and patterns mean what they mean to a reader; each ``sgool`` in it is then run in this process, in
which torch is imported already, at a reduced size. Commands for published weights are composed and checked, not run.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from sgool.cli import app
from sgool.run.config import load_config

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^( *)```(\w+)?(?: title=\"(.+?)\")?[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_OVERRIDE = re.compile(r"[+~]{0,2}[\w./@]+=|~[\w./@]+$")
#: Programs that no test runs, and why. They are noted, with what they were called with.
OTHERS = {
    "pip": "installs packages",
    ".": "is about the reader's shell",
    "wandb": "needs an account",
    "hf": "needs a network",
    ".venv/bin/pre-commit": "changes the checkout",
}
#: What every run of the page gets, unless the page says otherwise: the smallest size at which all parts are there.
SMALL = {
    "fit": {
        "data.limit": "1",
        "sampler.num_inference_steps": "1",
        "optimization.num_optimization_steps": "1",
        "objective.crops.num": "2",
        "method.sgool.optimization.candidates": "2",
        "trainer.precision": "32-true",
    },
    "edit": {
        "sampler.num_inference_steps": "4",
        "optimization.num_optimization_steps": "1",
        "trainer.precision": "32-true",
    },
}
#: What the page's own values become.
SMALLER = {"budget.calls": "12", "data.limit": "1"}
#: Files of the reader's own that commands name, but that no page tells to save.
PLACES = {
    "photo.png": "emoji_world/references/panda.png",
    "photo.jpg": "emoji_world/references/panda.png",
    "prompts.txt": "emoji_world/demo",
    "prompts.csv": "emoji_world/demo",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is saved as, and its text."""

    language: str
    title: str | None
    text: str


def blocks_of(page: Path) -> list[Block]:
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, title or None, text) for _, language, title, text in found]


def run_page(page: Path, folder: Path) -> list[list[str]]:
    """Runs all blocks of a page with ``folder`` as the current one, and returns the commands that were run."""
    names: dict[str, Any] = {"__name__": "__main__"}
    ran: list[list[str]] = []
    for number, block in enumerate(blocks_of(page)):
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, f"{page.name}, block {number}", "exec"), names)
        elif block.language == "bash":
            for words in commands_of(block.text, folder):
                run(words)
                ran.append(words)
    return ran


def commands_of(text: str, folder: Path) -> list[list[str]]:
    """Lets bash read a block, and returns the calls of sgool, make and `OTHERS` in it, as words."""
    calls = folder / ".calls"
    calls.write_bytes(b"")
    note = r"""printf '%s\x1f' "$0" "$@" >> "$CALLS"; printf '\x1e' >> "$CALLS";"""
    stubs = [f"{name}() {{ {note.replace('$0', name)} }}" for name in ("sgool", "make", *OTHERS)]
    script = "\n".join(["set -eu", *stubs, text])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={"CALLS": str(calls), "PATH": "/usr/bin:/bin"}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    records = calls.read_text(encoding="utf-8").split("\x1e")[:-1]
    calls.unlink()
    return [record.split("\x1f")[:-1] for record in records]


def run(words: list[str]) -> None:
    if words[0] in OTHERS:
        return
    if words[0] == "make":
        made = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
        return
    command, arguments = words[1], words[2:]
    if needs_weights(arguments):
        check(command, arguments)
        return
    if command == "submit" and "--dry-run" not in arguments:  # no test submits a job: what the job does is run here
        run(["sgool", "submit", *arguments, "--dry-run"])
        run(["sgool", "fit", *(word for word in arguments[: _first_option(arguments)])])
        return
    arguments = [*_shrunk(arguments), *_smaller(command, arguments)]
    result = CliRunner().invoke(app, [command, *arguments])
    problem = "" if result.exception is None else f"\n{result.exception!r}"
    assert result.exit_code == 0, f"{' '.join(words)}: exit code {result.exit_code}\n{result.output}{problem}"


def needs_weights(arguments: list[str]) -> bool:
    """Whether a command is for weights, data or a launcher that no test has."""
    models = [word for word in arguments if word.startswith("models=")]
    return any("emoji" not in word for word in models) or any(word.startswith("hydra/launcher=") for word in arguments)


def check(command: str, arguments: list[str]) -> None:
    """Reads a command's arguments as the command line does, and composes its configuration; nothing is run."""
    tool = get_command(app).commands[command]  # type: ignore[attr-defined]
    try:
        given = tool.make_context(command, list(arguments)).params
    except Exception as error:  # what the command line answers with exit code 2
        raise AssertionError(f"sgool {command} {' '.join(arguments)}: {error}") from error
    if command not in ("fit", "edit", "submit", "doctor"):
        return
    words = list(given["images" if command == "edit" else "overrides"] or ())
    overrides = [word for word in words if _OVERRIDE.match(word)]
    assert command == "edit" or overrides == words, f"expected KEY=VALUE, got {words}"
    overrides = [word for word in overrides if not word.startswith("hydra")]  # of launchers that no test has
    if command == "edit" and not any(word.startswith("experiment=") for word in overrides):
        overrides = ["experiment=edit", *overrides]
    if given.get("multirun"):
        overrides = [word.split(",")[0] if "," in word and "[" not in word else word for word in overrides]
    named = [re.sub(r"=\[[\w.,]*\.(jpg|png)\]", "=[emoji_world/references/panda.png]", word) for word in overrides]
    for old, new in PLACES.items():
        named = [word if Path(old).exists() else word.replace(f"={old}", f"={new}") for word in named]
    assert load_config(named, given["config_dir"]).methods


def _first_option(words: list[str]) -> int:
    return next(index for index, word in enumerate(words) if word.startswith("--"))


def _shrunk(arguments: list[str]) -> list[str]:
    """The page's own words: values that decide on the time made small, and files of ours for those of the reader."""
    shrunk = []
    for word in arguments:
        key = word.partition("=")[0]
        word = f"{key}={SMALLER[key]}" if key in SMALLER else word
        shrunk.append(PLACES.get(word, word) if not Path(word).exists() else word)
    return shrunk


def _smaller(command: str, arguments: list[str]) -> list[str]:
    given = {word.partition("=")[0].lstrip("+") for word in arguments}
    small = dict(SMALL.get(command, {}))
    if "budget.calls" in given:
        small.pop("optimization.num_optimization_steps")
    if any(word.endswith("edit_aesthetic_embedded") for word in arguments):
        small.pop("sampler.num_inference_steps")  # its sampler would not invert in so few steps
    if "--cfg" in arguments:
        return []
    return [f"{key}={value}" for key, value in small.items() if key not in given]
