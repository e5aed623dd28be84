"""Reads how many tasks an array has: as a number, or as SLURM writes their numbers."""

from __future__ import annotations

import re
from typing import Any

from sgool.errors import ConfigError

_RANGE = re.compile(r"(?P<first>\d+)-(?P<last>\d+)(?::(?P<step>[1-9]\d*))?(?:%(?P<running>[1-9]\d*))?", re.ASCII)
_NUMBER = re.compile(r"(?P<number>\d+)(?:%(?P<running>[1-9]\d*))?", re.ASCII)


def read_array(text: str | None, max_running: int | None) -> dict[str, Any]:
    """Returns ``array``, ``array_range`` and ``max_running`` of `sgool.run.slurm.script.Resources`.

    The tasks share all pairs, whatever their numbers: ``0-7`` and ``1-8`` are eight tasks, as ``8`` is.

    Args:
        text: ``8``, ``0-7`` or ``0-14:2``, each possibly with ``%4`` behind for at most 4 at the same time; None: no
            array.
        max_running: What ``--max-running`` says.

    Raises:
        ConfigError: Another text, or two different numbers of tasks at the same time.
    """
    if text is None:
        return {"array": None, "array_range": None, "max_running": max_running}
    plain = text.strip()
    number, found = _NUMBER.fullmatch(plain), _RANGE.fullmatch(plain)
    match = number or found
    if match is None or (found and int(found["last"]) < int(found["first"])):
        raise ConfigError(
            [
                "--array: expected a whole number of at least 1 for as many tasks, which share all pairs, or SLURM's "
                f"range FIRST-LAST, FIRST-LAST:STEP, each possibly with %MOST behind, such as 0-7%4; got {text!r}"
            ]
        )
    running = match["running"] and int(match["running"])
    if running and max_running is not None and running != max_running:
        raise ConfigError([f"--max-running: expected {running}, as --array {text} says, got {max_running}"])
    tasks = int(number["number"]) if number else 0
    span = None
    if found:
        tasks = len(range(int(found["first"]), int(found["last"]) + 1, int(found["step"] or 1)))
        span = plain.partition("%")[0]
    return {"array": tasks, "array_range": span, "max_running": running or max_running}
