"""Opens W&B runs: their ids, their folders, and what to do without a network."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgool.errors import SgoolError
from sgool.loggers.ledger import Ledger
from sgool.loggers.process import Process
from sgool.loggers.slots import Slot
from sgool.results.atomic import explain_os_errors

_INIT_SECONDS = 60.0
"""How long the start of an online run may take; after that it is logged offline."""

_FINISH_SECONDS = 60.0
"""How long uploading may take at the end: less than a cluster warns before its limit. `wandb sync` uploads the rest."""

_FLUSH_SECONDS = 1.0
"""How often W&B writes its file (by itself every 15 s); what a kill costs of it is logged again."""


@dataclass
class OpenRun:
    """A W&B run that is open, and what belongs to it.

    Attributes:
        run: W&B's run.
        ledger: The note of what the run holds.
        slot: The name that this process holds in the run folder.
        variables: Names of environment variables that were set for the run.
        notes: Sentences that the user should be told.
    """

    run: Any
    ledger: Ledger
    slot: Slot
    variables: list[str]
    notes: list[str] = field(default_factory=list)

    def release(self) -> None:
        """Gives back the run's name and the environment variables that were set for it."""
        self.slot.release()
        for name in self.variables:
            os.environ.pop(name, None)


def open_run(
    options: Mapping[str, Any], *, run_dir: Path, name: str, method: str, process: Process, config: Mapping[str, Any]
) -> OpenRun:
    """Starts, or continues, the W&B run of a process and method.

    Args:
        options: ``mode``, ``project``, ``entity`` and ``tags`` of the ``logger`` part of the configuration.
        run_dir: The run folder; all of W&B's files lie in its ``wandb``.
        name: The run's name, which is W&B's group.
        method: The method's name, which is W&B's job type.
        process: The process that logs.
        config: The plain configuration, shown by W&B.

    Raises:
        SgoolError: The run folder cannot be written.
    """
    folder = run_dir.resolve() / "wandb"
    with explain_os_errors(f"write to {folder}", "Make room there, or set logger=none."):
        folder.mkdir(parents=True, exist_ok=True)
        slot = Slot(folder / "sgool", process.named(method))
        ledger = Ledger(folder / "sgool", slot.name, run_dir)
        uid = run_uid(folder / "sgool" / "uid")
    variables = _keep_inside(folder)
    arguments = {
        "id": hashlib.sha256(f"{uid}|{slot.name}".encode()).hexdigest()[:16],
        "name": f"{name}-{slot.name}",
        "group": name,
        "job_type": method,
        "project": options["project"],
        "entity": options["entity"],
        "tags": list(options["tags"]),
        "config": dict(config),
        "dir": str(folder.parent),
        # Also offline: `wandb sync` then appends the files of one run in the order of their starts.
        "resume": "allow",
        # The calling program may have a W&B run of its own open, which must not get our values.
        "reinit": "create_new",
    }
    opened = OpenRun(None, ledger, slot, variables)
    try:
        opened.run = _init(arguments, options["mode"], opened.notes)
    except BaseException:
        opened.release()
        raise
    _describe_axes(opened.run)
    _note_start(opened, run_dir)
    return opened


def _note_start(opened: OpenRun, run_dir: Path) -> None:
    """Notes which log this process writes, and tells the user where the run is."""
    run, state = opened.run, opened.ledger.state
    if run.disabled:
        return
    # The server may hold more than the log of an online run that was killed; then the server's count is right.
    state.steps = max(state.steps, run.starting_step)
    if not run.offline:
        known = len(opened.ledger.pairs)
        state.pairs = max(state.pairs, min(_count(run.summary.get("pair/count")), known))
        state.rows = max(state.rows, min(_count(run.summary.get("table/rows")), known))
        opened.notes.append(f"W&B: {run.url}")
    logs = list(Path(run.dir).parent.glob("*.wandb"))
    opened.ledger.begin(str(logs[0].relative_to(run_dir.resolve())) if logs else "")


def _count(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def _init(arguments: dict[str, Any], mode: str, notes: list[str]) -> Any:
    import wandb

    try:
        return wandb.init(mode=mode, settings=_settings(), **arguments)  # type: ignore[arg-type]
    except Exception as error:  # W&B's errors and, without a network, those of its libraries
        if mode != "online":
            raise SgoolError(f"`logger`: W&B could not start ({error}); set `logger=csv`") from error
        why = str(error).partition("\n")[0]
    if wandb.run is not None:  # a run of the calling program, which a restart of the service would end
        notes.append(f"W&B cannot be reached ({why}); nothing is logged there")
        return wandb.init(mode="disabled", settings=_settings(), **arguments)
    notes.append(f"W&B cannot be reached ({why}); this run is logged offline, `wandb sync` uploads it later")
    wandb.teardown()  # else the service would refuse the id as used
    return wandb.init(mode="offline", settings=_settings(), **arguments)


def _settings() -> Any:
    """Returns W&B's settings, without those that the installed release does not know."""
    import wandb

    wanted: dict[str, Any] = {
        "silent": True,
        # Redirecting the output would break the progress bars and fill the log with them.
        "console": "off",
        "init_timeout": _INIT_SECONDS,
        "finish_timeout": _FINISH_SECONDS,
        "x_transaction_log_flush_interval": _FLUSH_SECONDS,
    }
    known = wandb.Settings.model_fields
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def _describe_axes(run: Any) -> None:
    """Gives each group of curves its own axis, and no summary: the last value alone would say nothing."""
    for axis, values in (("fit/update", "fit/*"), ("pair/count", "pair/*"), ("curve/update", "curve/*")):
        run.define_metric(axis)
        run.define_metric(values, step_metric=axis, summary="none")


def _keep_inside(folder: Path) -> list[str]:
    """Sets W&B's folders for data and cache to the run folder, unless the user has set them, and returns what it set.

    The images of tables wait in the data folder until `wandb sync` uploads them; on a cluster's node, W&B's default
    folder might be gone by then.
    """
    set_now = []
    for name in ("DATA", "CACHE"):
        variable = f"WANDB_{name}_DIR"
        if variable not in os.environ:
            os.environ[variable] = str(folder / name.lower())
            set_now.append(variable)
    return set_now


def run_uid(path: Path) -> str:
    """Returns the random name of a run folder, which the first process makes and stores in the file ``path``."""
    while True:
        try:
            uid = path.read_text(encoding="utf-8").strip()
            if uid:
                return uid
            path.unlink()  # a power cut left it empty
        except FileNotFoundError:
            pass  # the first process makes it
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        temporary.write_text(secrets.token_hex(16), encoding="utf-8")
        try:
            os.link(temporary, path)  # unlike a rename, it never replaces what another process made
        except FileExistsError:
            pass  # another process was first: its name is read in the next round
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
