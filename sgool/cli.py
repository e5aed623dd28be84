"""The command line. Nothing heavy is imported at the top: ``--help`` and mistakes in arguments answer at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sgool import __version__
from sgool.errors import SgoolError

#: Exit code of what the user can mend.
USER_ERROR = 2

app = typer.Typer(
    name="sgool",
    help="Saliency-guided optimisation of diffusion latents.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def _user_errors(debug: bool) -> Iterator[None]:
    """A SgoolError becomes one paragraph on stderr and exit code 2; with ``debug`` its traceback is shown."""
    try:
        yield
    except SgoolError as error:
        if debug:
            raise
        from rich.console import Console

        # No markup: messages hold [brackets]. No wrapping by rich: it would cut paths that someone wants to copy.
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        console.print(f"Error: {error}", style="red")
        raise typer.Exit(USER_ERROR) from error


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sgool {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OVERRIDES",
            help="KEY=VALUE or GROUP=CHOICE in Hydra's grammar, e.g. experiment=demo data.seeds=[0,1] methods=[sgool].",
        ),
    ] = None,
    config_dir: Annotated[
        Path | None, typer.Option("--config-dir", help="Folder with configuration files of your own.")
    ] = None,
    resume_with_changes: Annotated[
        bool, typer.Option("--resume-with-changes", help="Go on in a run folder of another configuration.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run methods over prompt-seed pairs; resumes by itself."""
    from sgool.config import load_config

    with _user_errors(debug):
        config = load_config([*(overrides or []), *(["debug=true"] if debug else [])], config_dir)
    with _user_errors(config.debug):
        from sgool.console import ConsoleProgress, print_outcome
        from sgool.runner import run_experiment

        with ConsoleProgress() as progress:
            outcome = run_experiment(config, progress, accept_changes=resume_with_changes)
        if outcome.rank == 0:
            print_outcome(outcome, progress.console)
    raise typer.Exit(outcome.exit_code)


@app.command()
def edit(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG, JPEG or WebP file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES", help="As for fit, e.g. objective=color run_dir=runs/edit sampler=belm."),
    ] = None,
    text: Annotated[str, typer.Option("--text", help="What objectives that read a text are told.")] = "",
    prompt: Annotated[
        str, typer.Option("--prompt", help="What the denoising network is told; best empty for inversion.")
    ] = "",
    fit: Annotated[str, typer.Option("--fit", help="To the model's size: crop, squash or pad.")] = "crop",
    max_error: Annotated[
        float, typer.Option("--max-error", help="Largest relative error of the inversion at which the edit goes on.")
    ] = 0.05,
    config_dir: Annotated[
        Path | None, typer.Option("--config-dir", help="Folder with configuration files of your own.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Invert a real image exactly and optimise it (experiment=edit unless you choose another)."""
    from sgool.config import load_config

    lines = [*(overrides or []), *(["debug=true"] if debug else [])]
    chosen = any(line.startswith("experiment=") for line in lines)
    with _user_errors(debug):
        config = load_config(lines if chosen else ["experiment=edit", *lines], config_dir)
    with _user_errors(config.debug):
        from sgool.console import ConsoleProgress
        from sgool.edit import Edit, edit_image, summary

        with ConsoleProgress() as progress:
            outcome = edit_image(config, Edit(image, text.strip(), prompt.strip(), fit, max_error), progress)
        for line in summary(outcome):
            progress.console.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(outcome.exit_code)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, as given in run_dir.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report; without it, report/ in the first run.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Build tables, figures and the page of one or more runs and print the page's path."""
    with _user_errors(debug):
        from sgool.report import build_report

        typer.echo(str(build_report(runs, out)))


@app.command()
def study(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, as given in run_dir.")],
    methods: Annotated[
        list[str] | None, typer.Option("--methods", help="Compare these alone, e.g. sgool,vanilla. Default: all.")
    ] = None,
    pairs: Annotated[int | None, typer.Option("--pairs", help="Prompt-seed pairs to draw. Default: all.")] = None,
    per_rater: Annotated[int, typer.Option("--per-rater", help="Comparisons that one rater sees, at most.")] = 50,
    attention: Annotated[int, typer.Option("--attention", help="Attention checks that one rater sees.")] = 3,
    rater: Annotated[str | None, typer.Option("--rater", help="A page for this rater alone.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides pairs, orders and sides.")] = 0,
    consent: Annotated[Path | None, typer.Option("--consent", help="Text file with a consent text of yours.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The study's folder. Default: study/ in the run.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the page and collect votes until Ctrl-C.")] = False,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any free one.")] = 8000,
    debug: Debug = False,
) -> None:
    """Build a blind page on which people compare methods' images; --serve collects the votes."""
    with _user_errors(debug):
        from sgool.study import StudyOptions, build_study, run_study

        names = tuple(name.strip() for part in methods or () for name in part.split(",") if name.strip())
        made = build_study(runs, StudyOptions(names, pairs, per_rater, attention, seed, rater, consent, out))
        run_study(made, (host, port) if serve else None, typer.echo)


@app.command("study-results")
def study_results(
    votes: Annotated[list[Path], typer.Argument(metavar="VOTES", help="CSV files, from the server and from raters.")],
    key: Annotated[
        Path | None, typer.Option("--key", help="The study's key. Default: key.json beside the first file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every number in full.")] = False,
    debug: Debug = False,
) -> None:
    """Score the votes of a study: win-draw-loss, agreement, ranking."""
    with _user_errors(debug):
        from sgool.study import results_json, show_results
        from sgool.study import study_results as score_votes

        results = score_votes(votes, key)
        typer.echo(results_json(results) if as_json else show_results(results))


@app.command()
def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    distribution: Annotated[
        str | None,
        typer.Option(
            metavar="REFERENCE",
            help="FID and KID to a folder of images, or to one of the run's methods, into RUN/distribution.csv.",
        ),
    ] = None,
    features: Annotated[
        str, typer.Option(help="For --distribution: embedded, inception, or the folder of a classifier.")
    ] = "embedded",
    by: Annotated[str | None, typer.Option(help="For --distribution: category, for a row each as well.")] = None,
    diversity: Annotated[
        str | None,
        typer.Option(metavar="JUDGE", help="How a prompt's images differ over seeds, into RUN/diversity.csv."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Score a finished run's images again, with the judges of its configuration as they are now; or sets of images."""
    with _user_errors(debug):
        if distribution is None and diversity is None:
            from sgool.console import print_outcome
            from sgool.rescore import rescore

            print_outcome(rescore(run))
            return
        from sgool.imagesets import score_distribution, score_diversity

        tables = [score_distribution(run, distribution, features, by)] if distribution is not None else []
        tables += [score_diversity(run, diversity)] if diversity is not None else []
        for table in tables:
            _columns(table.cells())
            for note in table.notes:
                typer.echo(f"note: {note}", err=True)
            typer.echo(f"written: {table.path}")


@app.command()
def models() -> None:
    """List embedded models and prompt sets."""
    from sgool.doctor import asset_facts, prompt_facts

    with _user_errors(debug=False):
        _columns([("MODEL", "WHAT IT IS", "SIZE"), *asset_facts()])
        _columns([("PROMPTS", "NUMBER"), *((name, str(number)) for name, number in prompt_facts())])
    typer.echo(
        "Other weights:\n"
        "  sgool fit models=sd14                          Stable Diffusion 1.4 from the hub\n"
        "  sgool fit models=sd14 models.path=/a/folder    a Stable Diffusion 1.x or 2.x folder as diffusers saves it\n"
        "  sgool fit models.guide='{model: ViT-L-14, pretrained: laion2b_s32b_b82k}'    another guidance CLIP"
    )


@app.command()
def doctor() -> None:
    """Show versions, devices, cores, memory and assets."""
    from sgool.doctor import asset_facts, machine_facts

    _columns(machine_facts())
    _columns(asset_facts())


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
    array: Annotated[int | None, typer.Option(help="Array tasks, which share the pairs.")] = None,
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
    config_dir: Annotated[Path | None, typer.Option(help="As for fit.")] = None,
    resume_with_changes: Annotated[bool, typer.Option("--resume-with-changes", help="As for fit.")] = False,
    debug: Debug = False,
) -> None:
    """Submit fit to SLURM, as a job or an array of jobs that go on after their time limit."""
    with _user_errors(debug):
        from sgool.slurm.command import submit_command

        submit_command(**{name: value for name, value in context.params.items() if name != "debug"})


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; runners may be at work there.")],
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    debug: Debug = False,
) -> None:
    """Show what of a run is done, running, failed and left, and how long that will take."""
    with _user_errors(debug):
        from sgool.status import describe, run_status, table

        found = run_status(run)
        if as_json:
            typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
            return
        _columns(table(found))
        for line in describe(found):
            typer.echo(line)


def _columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Prints rows in aligned columns, then an empty line."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    typer.echo()


def main() -> None:
    """Entry point of the ``sgool`` command."""
    app()
