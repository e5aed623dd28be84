"""What ``sgool edit`` does with its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sgool.cli.base import command_lines, print_config, user_errors
from sgool.run.config import load_config
from sgool.run.photos import find_photos, split_arguments


def edit_photos(
    arguments: Sequence[str],
    captions: Path | None,
    told: Mapping[str, Any],
    config_dir: Path | None,
    *,
    shows: bool,
    debug: bool,
) -> int:
    """Edits photos and prints what came of it, or prints the configuration alone.

    Args:
        arguments: Photos, folders and patterns, and overrides of the configuration.
        captions: A file with a text for each photo, or None.
        told: The fields of `sgool.run.edit.Edit` but the image; its text is for photos without a caption.
        config_dir: A folder with configuration files of the user's own.
        shows: Whether the composed configuration is printed, and nothing else done.
        debug: Whether errors show their traceback.

    Returns:
        The exit code.
    """
    with user_errors(debug):
        lines = command_lines(arguments, debug=debug, shows=shows)
        given, overrides = split_arguments(lines)
        chosen = any(line.startswith("experiment=") for line in overrides)
        config = load_config(overrides if chosen else ["experiment=edit", *overrides], config_dir)
        if shows:
            print_config(config)
            return 0
        photos, notes = find_photos(given, captions)
    with user_errors(config.debug):
        from sgool.cli.console import ConsoleProgress, next_command
        from sgool.run.edit import Edit, edit_images
        from sgool.run.edit_summary import summary

        edits = [Edit(photo.path, **{**told, "text": photo.text or told["text"]}) for photo in photos]
        with ConsoleProgress() as progress:
            for note in notes:
                progress.note(note)
            outcome = edit_images(config, edits, progress)
        for line in filter(None, [*summary(outcome), next_command(outcome)]):
            progress.console.print(line, markup=False, soft_wrap=True)
    return outcome.exit_code
