"""Makes the batch script: the resources, the command, and what happens when the command is interrupted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgool.errors import ConfigError, SgoolError

#: Lightning takes jobs of these names for interactive shells and would start every rank as a run of its own.
_INTERACTIVE_NAMES = ("bash", "interactive")

_NO_LIMIT = ("0", "UNLIMITED", "INFINITE")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
_OPTION = re.compile(r"(?P<key>[a-z][a-z0-9-]*)(?:=(?P<value>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Resources:
    """What a job asks of SLURM.

    Attributes:
        array: Number of array tasks, which share the pairs; None: a job without an array.
        array_range: The array's task numbers as SLURM writes them, for example ``1-8``; None: from 0 on.
        max_running: Array tasks that may run at the same time.
        nodes: Nodes of each array task.
        tasks_per_node: Processes on each node.
        gpus: GPUs of each array task on each node, one for each process; None or 0: none are asked for.
        cpus_per_task: Processors of each process.
        mem: Memory on each node as SLURM writes it, for example ``16G``.
        time: Time limit as SLURM writes it, for example ``04:00:00``.
        partition: SLURM's partition; None: the cluster's default.
        account: SLURM's account; None: the user's default.
        job_name: The name of the job.
        signal_before: Seconds before the time limit at which the work is saved and the job requeued.
        requeue: Whether the job goes back into the queue when it is interrupted.
        max_requeues: How often it goes back at most.
        options: More options of sbatch, ``KEY=VALUE`` or ``KEY``; they win over those above.
        setup: Lines of shell before the command.
    """

    array: int | None = None
    array_range: str | None = None
    max_running: int | None = None
    nodes: int = 1
    tasks_per_node: int = 1
    gpus: int | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    job_name: str = "sgool"
    signal_before: int = 120
    requeue: bool = True
    max_requeues: int = 100
    options: Sequence[str] = ()
    setup: Sequence[str] = ()

    @property
    def ranks(self) -> int:
        """How many processes each array task has."""
        return self.nodes * self.tasks_per_node

    @property
    def file_name(self) -> str:
        """The name of the script's file."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.job_name).strip("-.") + ".sbatch"


def batch_script(resources: Resources, arguments: Sequence[str], *, python: str, chdir: Path, logs: Path) -> str:
    """Returns the text of the batch script.

    Args:
        resources: What the job asks of SLURM.
        arguments: The arguments of ``python -m sgool``, unquoted, with the command first.
        python: The path of the interpreter that the job uses.
        chdir: The folder in which the job runs; relative paths in the arguments start there.
        logs: The folder of the job's output.

    Raises:
        ConfigError: The resources are wrong, or an ``#SBATCH`` line cannot hold a path; all problems are listed.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    problems = _problems(resources)
    problems += [
        f"{path}: sbatch cannot read this path: it holds {what}" for path in (chdir, logs) if (what := _odd(path))
    ]
    if problems:
        raise ConfigError(problems)
    environment = Environment(
        loader=PackageLoader("sgool.run.slurm", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sbatch"] = _sbatch_quoted
    name = "%A_%a.out" if resources.array else "%j.out"
    return environment.get_template("job.sbatch.j2").render(
        job=resources,
        command=[f"{shlex.quote(python)} -m sgool {arguments[0]}", *(shlex.quote(word) for word in arguments[1:])],
        chdir=str(chdir),
        # SLURM replaces %j and the like anywhere in this path, so a folder's own % is doubled.
        output=f"{str(logs).replace('%', '%%')}/{name}",
        options=[_option(option) for option in resources.options],
    )


def _problems(job: Resources) -> list[str]:
    """Returns a sentence for each thing that is wrong with the resources."""
    found = []
    for option in ("array", "max_running", "nodes", "tasks_per_node", "cpus_per_task"):
        value = getattr(job, option)
        if value is not None and value < 1:
            found.append(f"{_flag(option)}: expected a whole number of at least 1, got {value}")
    if job.max_running is not None and job.array is None:
        found.append("--max-running: expected together with --array, whose tasks it limits")
    if (job.gpus or 0) < 0:
        found.append(f"--gpus-per-task: expected a number of at least 0, got {job.gpus}")
    elif job.gpus and job.gpus != job.tasks_per_node:
        found.append(
            f"--tasks-per-node: expected one process for each of the {job.gpus} GPUs on a node (--gpus-per-task counts "
            f"the GPUs that an array task has on each node), got {job.tasks_per_node}; leave it out"
        )
    if job.max_requeues < 0:
        found.append(f"--max-requeues: expected a number of at least 0, got {job.max_requeues}")
    if job.job_name in _INTERACTIVE_NAMES:
        found.append(f"--job-name: Lightning takes a job named {job.job_name} for an interactive shell; choose another")
    for option in ("mem", "partition", "account", "job_name"):
        value = getattr(job, option)
        if value is not None and (not value.strip() or not value.isprintable() or set(value) & set("\"'\\")):
            found.append(f"{_flag(option)}: expected plain text without quotes, got {value!r}")
    if not re.search(r"[A-Za-z0-9]", job.job_name):
        found.append(f"--job-name: expected at least one letter or digit, got {job.job_name!r}")
    found += [f"--setup: expected one line of shell, got {line!r}" for line in job.setup if "\n" in line]
    for option in job.options:
        if not _OPTION.fullmatch(option) or "\n" in option:
            found.append(f"--sbatch-option: expected KEY=VALUE, a long option of sbatch without its --, got {option!r}")
    return found + _time_problems(job)


def _time_problems(job: Resources) -> list[str]:
    if not 1 <= job.signal_before <= 65535:  # sbatch's own limit
        return [f"--signal-before: expected seconds from 1 to 65535, got {job.signal_before}"]
    if job.time is None or job.time.upper() in _NO_LIMIT:
        return []
    limit = seconds_of(job.time)
    if limit is None:
        return [f"--time: expected MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS, got {job.time!r}"]
    if limit <= job.signal_before:
        return [
            f"--signal-before: {job.signal_before} s leave nothing of a time limit of {limit} s (--time {job.time}); "
            "raise the one or lower the other"
        ]
    return []


def seconds_of(time: str) -> int | None:
    """Converts a time limit as SLURM writes it to seconds; None if it cannot be read."""
    match = _TIME.fullmatch(time.strip())
    if match is None:
        return None
    first, second, third = (int(match[name]) if match[name] else 0 for name in ("first", "second", "third"))
    if match["days"]:
        return int(match["days"]) * 86400 + first * 3600 + second * 60 + third
    if match["third"]:
        return first * 3600 + second * 60 + third
    return first * 60 + second


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _odd(path: Path) -> str:
    """Returns what sbatch would not take literally in a path; empty if there is nothing."""
    text = str(path)
    if "\\" in text:
        return "a backslash"  # it would turn off %j in file names
    return "" if text.isprintable() else "characters that cannot be printed"


def _sbatch_quoted(value: Any) -> str:
    """Quotes a value for an ``#SBATCH`` line, where a space or a quote needs it."""
    text = str(value)
    if re.fullmatch(r"[\w@%+=:,./^-]+", text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _option(option: str) -> str:
    match = _OPTION.fullmatch(option)
    if match is None:
        raise SgoolError(f"--sbatch-option: cannot read {option!r}")
    return f"--{match['key']}" if match["value"] is None else f"--{match['key']}={_sbatch_quoted(match['value'])}"
