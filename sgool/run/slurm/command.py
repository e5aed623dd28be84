"""The command ``sgool submit``: what it does with its options, and what it prints."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from sgool.config.words import counted
from sgool.run.slurm.array import read_array
from sgool.run.slurm.script import Resources
from sgool.run.slurm.submit import prepare, submit


def submit_command(
    *,
    overrides: Sequence[str] | None,
    array: str | None,
    max_running: int | None,
    gpus_per_task: int | None,
    sbatch_option: Sequence[str] | None,
    setup: Sequence[str] | None,
    dry_run: bool,
    config_dir: Path | None,
    resume_with_changes: bool,
    tasks_per_node: int | None,
    nodes: int | None,
    job_name: str | None,
    **resources: Any,
) -> None:
    """Prepares a job and submits it, or prints its script.

    Args:
        overrides: As for ``sgool fit``.
        array: How many tasks an array has, or SLURM's range of them.
        max_running: Array tasks at the same time.
        gpus_per_task: GPUs of each array task on each node.
        sbatch_option: More options of sbatch.
        setup: Lines of shell before the run.
        dry_run: Print the script, and do nothing else.
        config_dir: As for ``sgool fit``.
        resume_with_changes: As for ``sgool fit``.
        tasks_per_node: Processes on each node; None: as the GPUs or the configuration say.
        nodes: Nodes; None: as the configuration says.
        job_name: Name of the job; None: after the run's.
        resources: The other attributes of ``Resources``.

    Raises:
        SgoolError: The job cannot be submitted.
    """
    tasks = read_array(array, max_running)
    wanted = Resources(
        **tasks, gpus=gpus_per_task, options=tuple(sbatch_option or ()), setup=tuple(setup or ()), **resources
    )
    job = prepare(
        list(overrides or ()),
        wanted,
        config_dir=config_dir,
        accept_changes=resume_with_changes,
        tasks_per_node=tasks_per_node,
        nodes=nodes,
        job_name=job_name,
    )
    for note in job.notes:
        typer.echo(f"note: {note}", err=True)
    if dry_run:
        typer.echo(job.text, nl=False)
        return
    number = submit(job)
    typer.echo(f"job {number}: {counted(job.pairs, 'pair')} × {', '.join(job.methods)}, script {job.path}")
    typer.echo(f"watch it: sgool status {shlex.quote(str(job.run_dir))}   squeue --job {number}")
