"""Commands that make runs: ``fit``, ``edit``, ``submit`` and ``status``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sgool.cli.base import (
    ConfigDir,
    Debug,
    ShowConfig,
    app,
    columns,
    command_lines,
    print_config,
    user_errors,
)
from sgool.config.paths import home_path

_Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="TEXT", help="A prompt in place of a file's; may be repeated."),
]
_Captions = Annotated[
    Path | None,
    typer.Option("--captions", parser=home_path, help="A text for each photo: a CSV file with columns image and text."),
]
_Multirun = Annotated[
    bool,
    typer.Option(
        "-m", "--multirun", help="A run for each of the values in optimization.lr=1,2, by one of Hydra's launchers."
    ),
]


@app.command()
def fit(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OVERRIDES",
            help="KEY=VALUE or GROUP=CHOICE in Hydra's grammar, e.g. experiment=demo 'data.seeds=[0,1]'.",
        ),
    ] = None,
    prompt: _Prompts = None,
    multirun: _Multirun = False,
    config_dir: ConfigDir = None,
    resume_with_changes: Annotated[
        bool, typer.Option("--resume-with-changes", help="Go on in a run folder of another configuration.")
    ] = False,
    show_config: ShowConfig = False,
    debug: Debug = False,
) -> None:
    """Run methods over prompt-seed pairs; resumes by itself."""
    with user_errors(debug):
        lines = command_lines(overrides, debug=debug, shows=show_config, prompts=prompt or ())
        if multirun:
            from sgool.cli.sweep import Command, show_sweep, sweep

            command = Command.of(lines, config_dir, resume_with_changes, debug)
            raise typer.Exit(show_sweep(command) if show_config else sweep(command))
        from sgool.run.config import load_config

        config = load_config(lines, config_dir)
    if show_config:
        print_config(config)
        return
    with user_errors(config.debug):
        from sgool.cli.console import ConsoleProgress, print_outcome
        from sgool.run.fit import run_experiment

        with ConsoleProgress() as progress:
            outcome = run_experiment(config, progress, accept_changes=resume_with_changes)
        if outcome.rank == 0:
            print_outcome(outcome, progress.console)
    raise typer.Exit(outcome.exit_code)


@app.command()
def edit(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE... [OVERRIDES]...",
            help="Photos, folders of photos or patterns such as 'photos/*.jpg', in any format that Pillow reads; then "
            "overrides as for fit, e.g. objective=color run_dir=runs/edit sampler=belm.",
        ),
    ] = None,
    text: Annotated[str, typer.Option("--text", help="What objectives that read a text are told.")] = "",
    captions: _Captions = None,
    prompt: Annotated[
        str, typer.Option("--prompt", help="What the denoising network is told; best empty for inversion.")
    ] = "",
    fit: Annotated[str, typer.Option("--fit", help="To the model's size: crop, squash or pad.")] = "crop",
    max_error: Annotated[
        float, typer.Option("--max-error", help="Largest relative error of the inversion at which the edit goes on.")
    ] = 0.05,
    config_dir: ConfigDir = None,
    resume_with_changes: Annotated[bool, typer.Option("--resume-with-changes", help="As for fit.")] = False,
    show_config: ShowConfig = False,
    debug: Debug = False,
) -> None:
    """Invert real images exactly and optimise them (experiment=edit unless you choose another)."""
    from sgool.cli.photos import edit_photos

    told = {"text": text.strip(), "prompt": prompt.strip(), "fit": fit, "max_error": max_error}
    how = {"shows": show_config, "debug": debug, "resume_with_changes": resume_with_changes}
    raise typer.Exit(edit_photos(images or [], captions, told, config_dir, **how))


_SignalBefore = Annotated[
    int, typer.Option("--signal-before", help="Seconds before the time limit to write checkpoints and requeue.")
]
_SbatchOptions = Annotated[
    list[str] | None, typer.Option("--sbatch-option", metavar="KEY=VALUE", help="Any other option of sbatch.")
]
_Setup = Annotated[
    list[str] | None, typer.Option("--setup", help='A line of shell before the run, such as "module load cuda".')
]


@app.command()
def submit(
    context: typer.Context,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="OVERRIDES", help="As for fit.")] = None,
    array: Annotated[
        str | None,
        typer.Option(metavar="TASKS", help="Array tasks, which share the pairs: how many, or SLURM's 0-7 or 0-7%4."),
    ] = None,
    gpus_per_task: Annotated[int | None, typer.Option(help="GPUs of an array task on each node.")] = None,
    cpus_per_task: Annotated[int | None, typer.Option(help="Processors of each process.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory on each node, such as 16G.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit, such as 04:00:00 or 2-00:00:00.")] = None,
    partition: Annotated[str | None, typer.Option()] = None,
    account: Annotated[str | None, typer.Option()] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes of each array task.")] = None,
    tasks_per_node: Annotated[int | None, typer.Option(help="Processes on a node; default: one a GPU, or 1.")] = None,
    job_name: Annotated[str | None, typer.Option(help="Default: sgool-NAME of the run.")] = None,
    max_running: Annotated[int | None, typer.Option(help="Array tasks at the same time.")] = None,
    signal_before: _SignalBefore = 120,
    requeue: Annotated[bool, typer.Option(help="Put an interrupted job back into the queue.")] = True,
    max_requeues: Annotated[int, typer.Option(help="How often at most.")] = 100,
    sbatch_option: _SbatchOptions = None,
    setup: _Setup = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script; write and submit nothing.")] = False,
    config_dir: ConfigDir = None,
    resume_with_changes: Annotated[bool, typer.Option("--resume-with-changes", help="As for fit.")] = False,
    debug: Debug = False,
) -> None:
    """Submit fit to SLURM, as a job or an array of jobs that go on after their time limit."""
    with user_errors(debug):
        from sgool.run.slurm.command import submit_command

        submit_command(**{name: value for name, value in context.params.items() if name != "debug"})


@app.command()
def status(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", parser=home_path, help="A run folder; runners may be at work there.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    debug: Debug = False,
) -> None:
    """Show what of a run is done, running, failed and left, and how long that will take."""
    with user_errors(debug):
        from sgool.run.status import describe, run_status, table

        found = run_status(run)
        if as_json:
            typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
            return
        columns(table(found))
        for line in describe(found):
            typer.echo(line)
