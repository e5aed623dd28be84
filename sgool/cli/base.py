"""What all commands share: the application, how errors are shown, and printing in columns."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sgool.errors import SgoolError

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
        from rich.console import Console

        # No markup: messages hold [brackets]. No wrapping by rich: it would cut paths that someone wants to copy.
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        console.print(f"Error: {error}", style="red")
        raise typer.Exit(USER_ERROR) from error


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
