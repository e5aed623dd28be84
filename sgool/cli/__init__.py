"""The command line. It imports nothing heavy at the top, so that ``--help`` and wrong arguments answer at once."""

from __future__ import annotations

from typing import Annotated

import typer

from sgool import __version__
from sgool.cli import runs, showing
from sgool.cli.base import USER_ERROR, app, print_in_any_encoding

__all__ = ["USER_ERROR", "app", "main", "runs", "showing"]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sgool {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the ``sgool`` command; its entry point."""
    print_in_any_encoding()
    app()
