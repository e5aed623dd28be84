"""``sgool submit``: checks what a job could fail on, writes its script and hands it to sbatch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config.words import counted
from sgool.errors import ConfigError, SgoolError
from sgool.models.vocabulary import is_embedded
from sgool.prompts import load_data
from sgool.results import RunFolder
from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.results.compare import refuse_other_config
from sgool.run.config import complete, load_config, to_plain
from sgool.run.notes import model_line
from sgool.run.slurm.script import Resources, batch_script

if TYPE_CHECKING:
    from omegaconf import DictConfig

#: How many seconds sbatch may take to answer.
ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be submitted.

    Attributes:
        run_dir: The absolute path of the run folder.
        path: The path of the script.
        text: The text of the script.
        pairs: How many pairs the run has.
        methods: The methods that run on each pair.
        notes: Sentences that the user should know.
    """

    run_dir: Path
    path: Path
    text: str
    pairs: int
    methods: tuple[str, ...]
    notes: tuple[str, ...]


def prepare(
    overrides: Sequence[str],
    resources: Resources,
    *,
    config_dir: Path | None = None,
    accept_changes: bool = False,
    tasks_per_node: int | None = None,
    nodes: int | None = None,
    job_name: str | None = None,
) -> Submission:
    """Checks the configuration, prompts, resources and run folder, and makes the script without writing it.

    Args:
        overrides: As for ``sgool fit``.
        resources: What the job asks of SLURM; the last three arguments replace its processes, nodes and name.
        config_dir: As for ``sgool fit``.
        accept_changes: Whether the run may go on in a run folder of another configuration.
        tasks_per_node: Processes on each node; None: one for each GPU, else as `trainer.devices` says.
        nodes: Nodes; None: as `trainer.num_nodes` says.
        job_name: Name of the job; None: sgool-NAME of the run.

    Raises:
        SgoolError: The job would fail at once, as far as that can be known here.
    """
    config = load_config(overrides, config_dir)
    devices = config.trainer.devices
    devices = devices if isinstance(devices, int) else len(devices)
    resources = replace(
        resources,
        tasks_per_node=tasks_per_node or resources.gpus or devices,
        nodes=nodes or config.trainer.num_nodes,
        job_name=job_name or f"sgool-{config.name}",
    )
    run_dir = Path(os.path.abspath(Path(config.run_dir).expanduser()))
    own = _own_overrides(overrides, config, resources, run_dir)
    final = [line for line in overrides if _key(line) not in own] + [f"{key}={value}" for key, value in own.items()]
    arguments = ["fit", *final]
    if config_dir is not None:
        arguments += ["--config-dir", os.path.abspath(config_dir)]
    if accept_changes:
        arguments.append("--resume-with-changes")
    text = batch_script(resources, arguments, python=sys.executable, chdir=Path.cwd(), logs=run_dir / "slurm")
    plain = to_plain(load_config(final, config_dir))
    data = load_data(**plain["data"])
    _check_folder(run_dir, plain, accept_changes)
    model = [f"the model is {model_line(plain['models'])}"] if is_embedded(str(plain["models"]["path"])) else []
    notes = [*model, *data.notes, *_notes(resources, len(data.pairs), plain["trainer"]["pairs_per_fit"])]
    if not plain["resume"]:
        raise SgoolError("`resume`: expected true, since a requeued job would begin anew each time, got false")
    return Submission(
        run_dir, run_dir / "slurm" / resources.file_name, text, len(data.pairs), tuple(plain["methods"]), tuple(notes)
    )


def submit(submission: Submission, *, seconds: float = ANSWER_SECONDS) -> str:
    """Writes a job's script and submits it.

    Args:
        submission: From `prepare`.
        seconds: How long sbatch may take to answer.

    Returns:
        The job's number, as text.

    Raises:
        SgoolError: The folder cannot be written, there is no sbatch, it refuses, or the cluster does not answer.
    """
    with explain_os_errors(f"write {submission.path}", "Use a run_dir where you may write."):
        submission.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(submission.path, submission.text.encode())
    # If this runs inside a job, sbatch would take that job's variables for the new job. SLURM_CONF names the cluster.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    kept = f"The script is {submission.path}."
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(submission.path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except FileNotFoundError as error:
        raise SgoolError(
            f"There is no sbatch here: run this where SLURM's commands are, or submit the script there. {kept}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SgoolError(
            f"sbatch did not answer within {seconds:g} s. See with `squeue` whether the job is there before you submit "
            f"it again. {kept}"
        ) from error
    if done.returncode != 0 or not done.stdout.strip():
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise SgoolError(f"sbatch refused the job: {said} {kept}")
    return done.stdout.strip().splitlines()[-1].partition(";")[0]


def _own_overrides(overrides: Sequence[str], config: DictConfig, resources: Resources, run_dir: Path) -> dict[str, str]:
    """Returns the job's own overrides by key, in Hydra's grammar; they replace the user's for the same keys."""
    given = {_key(line) for line in overrides}
    trainer, own, problems = config.trainer, {}, []
    for name, flag, value in (
        ("devices", "--tasks-per-node or --gpus-per-task", resources.tasks_per_node),
        ("num_nodes", "--nodes", resources.nodes),
    ):
        key, now = f"trainer.{name}", trainer[name] if isinstance(trainer[name], int) else len(trainer[name])
        if now != value and key in given:
            problems.append(f"`{key}`: expected {value}, as {flag} says, got {trainer[name]}; leave one of the two out")
        if trainer[name] != value:
            own[key] = str(value)
    if resources.array and trainer.shard != "auto":
        problems.append(
            f"`trainer.shard`: expected auto with --array, whose tasks share the pairs, got {trainer.shard}"
        )
    if resources.ranks > 1 and trainer.strategy == "auto":
        own["trainer.strategy"] = "pair_parallel"
    if config.run_dir != str(run_dir):
        own["run_dir"] = _hydra_quoted(run_dir)
    if problems:
        raise ConfigError(problems)
    return own


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _hydra_quoted(path: Path) -> str:
    """Quotes a path for Hydra's grammar."""
    text = str(path)
    if "\\" in text or "${" in text:
        raise ConfigError([f"`run_dir`: expected a path without backslashes and ${{, got {text}"])
    plain = re.fullmatch(r"[\w/.-]+", text, re.ASCII)
    return text if plain else "'" + text.replace("'", "\\'") + "'"


def _check_folder(run_dir: Path, config: dict[str, Any], accept_changes: bool) -> None:
    """Raises an error for a run folder that the job would refuse."""
    if run_dir.exists() and not run_dir.is_dir():
        raise SgoolError(f"run_dir must be a folder, but {run_dir} is a file. Use another run_dir.")
    folder = RunFolder(run_dir)
    if not accept_changes and folder.config_path.exists() and any(run_dir.glob("pairs/*/*/record.json")):
        known = folder.config()
        complete(known)
        refuse_other_config(run_dir, known, config)


def _notes(resources: Resources, pairs: int, pairs_per_fit: int) -> list[str]:
    notes = []
    workers = (resources.array or 1) * resources.ranks
    batches = -(-pairs // pairs_per_fit)
    if workers > batches:
        notes.append(
            f"{workers} processes for {counted(pairs, 'pair')} in {counted(batches, 'batch', 'batches')} "
            f"(trainer.pairs_per_fit={pairs_per_fit}): "
            f"{workers - batches} of them will have nothing to do"
        )
    if resources.time is None:
        notes.append("no --time: the partition's own time limit counts")
    if not resources.requeue:
        notes.append("--no-requeue: a job that is interrupted stays so until you submit it again")
    return notes
