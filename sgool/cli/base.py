"""What all commands share: the application, how errors are shown, and printing in columns."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sgool.config.paths import TEXT, home_path
from sgool.errors import SgoolError

if TYPE_CHECKING:
    from omegaconf import DictConfig

#: Exit code for a mistake that the user can mend.
USER_ERROR = 2

#: What stands for characters of our own output where the terminal's encoding does not have them.
_PLAIN = {"→": "->", "×": "x", "–": "-", "—": "-", "…": "...", "±": "+-", "’": "'", "“": '"', "”": '"'}

app = typer.Typer(
    name="sgool",
    help="Saliency-guided optimisation of diffusion latents.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigDir = Annotated[
    Path | None,
    typer.Option(
        "--config-dir", metavar="FOLDER", parser=home_path, help="Folder with configuration files of your own."
    ),
]
ShowConfig = Annotated[
    bool, typer.Option("--cfg", help="Print the composed configuration as YAML and stop, like Hydra's --cfg job.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def print_in_any_encoding() -> None:
    """Lets this process print any text, whatever the encoding of its output; called once, by the program's entry point.

    A character that the encoding lacks is written as a plain one, or as an escape in ASCII. So are halves of surrogate
    pairs, which names of files may hold.
    """
    codecs.register_error("sgool_plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sgool_plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    plain = [_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters]
    return "".join(plain), error.end


@contextmanager
def user_errors(debug: bool) -> Iterator[None]:
    """Turns a SgoolError into one paragraph on stderr and exit code 2; with ``debug`` its traceback is shown."""
    try:
        yield
    except SgoolError as error:
        if debug:
            raise
        show_error(error)
        raise typer.Exit(USER_ERROR) from error


def show_error(error: SgoolError) -> None:
    """Prints an error as one paragraph on stderr."""
    from rich.console import Console

    # No markup: messages hold [brackets]. No wrapping by rich: it would cut paths that someone wants to copy.
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Error: {error}", style="red")


def command_lines(
    overrides: Sequence[str] | None, *, debug: bool = False, shows: bool = False, prompts: Sequence[str] = ()
) -> list[str]:
    """Returns the overrides of a command with those that its options stand for.

    Args:
        overrides: As they were typed.
        debug: Whether ``--debug`` was given.
        shows: Whether ``--cfg`` was given; Hydra's own ``--cfg job`` leaves a word here, which is dropped.
        prompts: Those of ``--prompt``.

    Raises:
        SgoolError: There are prompts, and ``data.prompts`` or another ``data`` too.
    """
    lines = [line for line in overrides or () if not (shows and line == "job")]
    keys = {line.lstrip("+").partition("=")[0] for line in lines}
    for key in ("data.prompts", "data"):
        if prompts and key in keys:
            raise SgoolError(f"--prompt and `{key}`: expected one of the two, got both; leave one out")
    if prompts:
        lines.append(f"data.prompts={TEXT}" + "\n".join(" ".join(prompt.split()) for prompt in prompts))
        # What an experiment chooses of its own data set is nothing of these prompts.
        lines += [f"{key}=null" for key in ("data.name", "data.indices", "data.categories") if key not in keys]
    return [*lines, *(["debug=true"] if debug else [])]


def add_modules(config_dir: Path | None) -> None:
    """Lets the modules in the folder of ``--config-dir`` be imported, for a command that composes no configuration.

    Raises:
        ConfigError: There is no such folder.
    """
    from sgool.config.compose import config_folders
    from sgool.config.locate import add_search_folder

    for folder in config_folders(config_dir)[1:]:
        add_search_folder(folder)


def print_config(config: DictConfig) -> None:
    """Prints a composed configuration as YAML, as it would stand in the run folder."""
    from sgool.results.compare import config_text, plain_config

    typer.echo(config_text(plain_config(config)), nl=False)


def columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Prints rows in aligned columns, then an empty line."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    typer.echo()


def say_left_out(runs: Sequence[Path]) -> None:
    """Says on stderr which records of run folders do not count, since their data sets no longer have the pairs."""
    from sgool.results import RunFolder

    for run in dict.fromkeys(runs):
        if note := RunFolder(run).scan().note(run):
            typer.echo(f"note: {note}", err=True)
