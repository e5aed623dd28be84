"""Paths of the files that ship with the package: configuration, embedded models, built-in prompt sets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sgool.config.quoting import prompt_command
from sgool.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
#: Folder of the embedded models; may be absent in a checkout without weights.
ASSETS = PACKAGE / "assets"


#: What `data.prompts` begins with where it holds the prompts themselves, one a line.
TEXT = "text:"


def home(text: str) -> str:
    """Replaces a leading ``~`` (or ``~NAME``) of a path by the home folder; returns any other text as it is."""
    return os.path.expanduser(text) if text.startswith("~") else text


def home_path(text: str) -> Path:
    """Returns the path of a command line's argument, a leading ``~`` replaced: ``--out=~/x`` gets here as it is."""
    return Path(home(text))


def config_folder() -> Path:
    """Returns the folder of the shipped configuration.

    It is ``sgool/configs`` in a wheel, and ``configs/`` beside the package in a checkout.
    """
    packaged = PACKAGE / "configs"
    return packaged if packaged.is_dir() else PACKAGE.parent / "configs"


def asset_path(path: str, assets: Path = ASSETS) -> str:
    """Maps an embedded model ("emoji_world", ...) and what lies below it to its folder; leaves other paths as they are.

    A folder of the user's own with that name, relative to the current directory, wins.
    """
    own = Path(path).expanduser()
    if is_embedded_name(path) and not own.exists() and (assets / path).exists():
        return str(assets / path)
    return str(own) if path and own.exists() else path


def is_embedded_name(path: str) -> bool:
    """Whether a path begins as the names of embedded models do: "emoji_world", "emoji_world_turbo/unet", ..."""
    return re.match(r"emoji_\w+(/|$)", path) is not None


def prompt_sets(assets: Path = ASSETS) -> dict[str, Path]:
    """Returns the CSV files of the built-in prompt sets by name ("emoji_world/demo"), sorted."""
    files = {f"{path.parent.parent.name}/{path.stem}": path for path in assets.glob("*/prompts/*.csv")}
    return dict(sorted(files.items()))


def prompt_file(name: str | Path, assets: Path = ASSETS) -> Path:
    """Returns the file that ``data.prompts`` means: a file's path, or the name of a built-in prompt set.

    A file of the user's own wins over a built-in set of the same name.

    Raises:
        ConfigError: It is neither; the message lists the built-in sets.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    builtin = prompt_sets(assets)
    if str(name) in builtin:
        return builtin[str(name)]
    # A text without a file's suffix or folder may be a prompt.
    is_prompt = not path.is_dir() and re.fullmatch(r"[^/]+|.* .*", str(name)) and not path.suffix.strip(".")
    hint = f" For one prompt: {prompt_command(str(name))}" if is_prompt else ""
    known = ", ".join(builtin) or "none installed"
    what = "a folder" if path.is_dir() else "neither a file nor a built-in prompt set"
    raise ConfigError(
        [
            f"`data.prompts`: expected a prompt file or the name of a built-in prompt set, got {str(name)!r}, which is "
            f"{what} (relative paths start at {Path.cwd()}). Built-in sets: {known}.{hint}"
        ]
    )


def file_problems(path: str, what: str, key: str) -> Iterator[str]:
    """Yields a problem if there is no file at ``path``.

    Args:
        path: The file, or the name of an embedded one.
        what: What the file should be and where it is published, for the message.
        key: Dotted key of the configuration that names it.
    """
    if not Path(asset_path(path)).expanduser().is_file():
        yield (
            f"`{key}`: there is no file {path!r} (relative paths start at {Path.cwd()}). Expected {what}; fetch it and "
            f"give its path with {key}=PATH"
        )
