"""Checks, before any model loads, whether a W&B run could start; it never asks the user for anything."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sgool.errors import SgoolError
from sgool.loggers.options import logger_names

#: W&B's own servers, which have had both names; a login at one counts at the other.
_CLOUD = ("api.wandb.ai", "api.forge.coreweave.com")

_OFFLINE = "set `logger.mode=offline`, which needs no account (`wandb sync` uploads later), or `logger=csv`"


def check_logger(options: Mapping[str, Any]) -> None:
    """Checks the ``logger`` part of the configuration.

    Raises:
        SgoolError: W&B is not installed, or an online run has no credentials.
    """
    if "wandb" not in logger_names(options):
        return
    if importlib.util.find_spec("wandb") is None:
        raise SgoolError("`logger`: wandb is not installed; `pip install wandb`, or set `logger=csv`")
    if options["mode"] == "online" and not _has_credentials():
        raise SgoolError(
            "`logger.mode`: online needs a W&B login, and there is none (no WANDB_API_KEY, no entry in ~/.netrc); "
            f"run `wandb login`, or {_OFFLINE}"
        )


def _has_credentials() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    settings = wandb.setup().settings
    if settings.api_key:
        return True
    host = urlsplit(settings.base_url).hostname or _CLOUD[0]
    hosts = _CLOUD if host in _CLOUD else (host,)
    return any(_in_netrc(path, host) for path in _netrc_files() for host in hosts)


def _netrc_files() -> list[Path]:
    given = os.environ.get("NETRC")
    return [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]


def _in_netrc(path: Path, host: str) -> bool:
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
