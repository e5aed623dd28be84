"""What ``sgool edit`` does with its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.cli.base import command_lines, print_config, user_errors
from sgool.errors import ConfigError
from sgool.run.config import load_config
from sgool.run.photos import Photo, find_photos, split_arguments

if TYPE_CHECKING:
    from omegaconf import DictConfig

#: Keys of ``data`` that count for photos too.
_DATA_OF_PHOTOS = ("seeds", "negative_prompt")


def edit_photos(
    arguments: Sequence[str],
    captions: Path | None,
    told: Mapping[str, Any],
    config_dir: Path | None,
    *,
    shows: bool,
    debug: bool,
    resume_with_changes: bool = False,
) -> int:
    """Edits photos and prints what came of it, or prints the configuration alone.

    Args:
        arguments: Photos, folders and patterns, and overrides of the configuration.
        captions: A file with a text for each photo, or None.
        told: The fields of `sgool.run.edit.Edit` but the image; its text is for photos without a caption.
        config_dir: A folder with configuration files of the user's own.
        shows: Whether the composed configuration is printed, and nothing else done.
        debug: Whether errors show their traceback.
        resume_with_changes: Whether the edit goes on in a run folder of another configuration.

    Returns:
        The exit code.
    """
    with user_errors(debug):
        lines = command_lines(arguments, debug=debug, shows=shows)
        given, overrides = split_arguments(lines)
        chosen = any(line.startswith("experiment=") for line in overrides)
        config = load_config(overrides if chosen else ["experiment=edit", *overrides], config_dir)
        _refuse_data_of_fit(overrides, config)
        if shows:
            print_config(config)
            return 0
        photos, notes = find_photos(given, captions)
    with user_errors(config.debug):
        from sgool.cli.console import ConsoleProgress, next_command
        from sgool.run.edit import Edit, edit_images
        from sgool.run.edit_summary import summary

        edits = [Edit(photo.path, **{**told, **_own(photo)}) for photo in photos]
        with ConsoleProgress() as progress:
            for note in notes:
                progress.note(note)
            outcome = edit_images(config, edits, progress, accept_changes=resume_with_changes)
        for line in filter(None, [*summary(outcome), next_command(outcome)]):
            progress.console.print(line, markup=False, soft_wrap=True)
    return outcome.exit_code


def _own(photo: Photo) -> dict[str, Any]:
    """The fields of an edit that the photo's row of captions gives."""
    own = {"seed": photo.seed, "negative_prompt": photo.negative_prompt}
    return {**own, "text": photo.text, "phrases": photo.phrases} if photo.text else own


def _refuse_data_of_fit(overrides: Sequence[str], config: DictConfig) -> None:
    """Refuses overrides that say which prompts are run with which seeds, since photos take their place.

    Only what was typed is refused: an experiment of fit, of which an edit takes the rest, may have several seeds.
    """
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    data = [key for key in keys if key == "data" or key.startswith("data.")]
    unused = [key for key in dict.fromkeys(data) if key.partition(".")[2] not in _DATA_OF_PHOTOS]
    problems = []
    if unused:
        problems.append(
            f"{', '.join(f'`{key}`' for key in unused)}: photos take the place of prompts in an edit, so nothing reads "
            "this; leave it out, and say with --text, --captions or --prompt what is told of the photos"
        )
    seeds = config.data.seeds
    number = seeds if isinstance(seeds, int) else len(seeds)
    if "data.seeds" in data and number > 1:
        problems.append(
            f"`data.seeds`: expected one seed, such as 'data.seeds=[1]', got {number} of them; an edit has one seed, "
            "that of its crops"
        )
    if problems:
        raise ConfigError(problems)
