"""Commands that read what is there: ``report``, ``study``, ``study-results``, ``score``, ``models``, ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sgool.cli.base import ConfigDir, Debug, add_modules, app, columns, say_left_out, user_errors
from sgool.config.paths import home_path
from sgool.errors import SgoolError


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", parser=home_path, help="Run folders, as given in run_dir.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            parser=home_path,
            help="Folder for the report; without it, report/ in the first run.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", metavar="METHOD", help="Compare all methods with this one; may be repeated. Default: vanilla."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Build tables, figures and the page of one or more runs and print the page's path."""
    with user_errors(debug):
        from sgool.report import build_report

        page = build_report(runs, out, against or ())
        say_left_out(runs)
        typer.echo(str(page))


@app.command()
def study(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", parser=home_path, help="Run folders, as given in run_dir.")
    ],
    methods: Annotated[
        list[str] | None, typer.Option("--methods", help="Compare these alone, e.g. sgool,vanilla. Default: all.")
    ] = None,
    pairs: Annotated[int | None, typer.Option("--pairs", help="Prompt-seed pairs to draw. Default: all.")] = None,
    per_rater: Annotated[int, typer.Option("--per-rater", help="Comparisons that one rater sees, at most.")] = 50,
    attention: Annotated[int, typer.Option("--attention", help="Attention checks that one rater sees.")] = 3,
    rater: Annotated[str | None, typer.Option("--rater", help="A page for this rater alone.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides pairs, orders and sides.")] = 0,
    consent: Annotated[
        Path | None,
        typer.Option("--consent", metavar="PATH", parser=home_path, help="Text file with a consent text of yours."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", parser=home_path, help="The study's folder. Default: study/ in the run."),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the page and collect votes until Ctrl-C.")] = False,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any free one.")] = 8000,
    debug: Debug = False,
) -> None:
    """Build a blind page on which people compare methods' images; --serve collects the votes."""
    with user_errors(debug):
        from sgool.study import StudyOptions, build_study, run_study

        names = tuple(name.strip() for part in methods or () for name in part.strip("[] ").split(",") if name.strip())
        made = build_study(runs, StudyOptions(names, pairs, per_rater, attention, seed, rater, consent, out))
        say_left_out(runs)
        run_study(made, (host, port) if serve else None, typer.echo)


@app.command("study-results")
def study_results(
    votes: Annotated[
        list[Path],
        typer.Argument(metavar="VOTES", parser=home_path, help="CSV files, from the server and from raters."),
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="PATH", parser=home_path, help="The study's key. Default: key.json beside the first file."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every number in full.")] = False,
    debug: Debug = False,
) -> None:
    """Score the votes of a study: win-draw-loss, agreement, ranking."""
    with user_errors(debug):
        from sgool.study import results_json, show_results
        from sgool.study import study_results as score_votes

        results = score_votes(votes, key)
        typer.echo(results_json(results) if as_json else show_results(results))


@app.command()
def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", parser=home_path, help="A run folder.")],
    distribution: Annotated[
        str | None,
        typer.Option(
            metavar="REFERENCE",
            help="FID and KID to a folder of images, or to one of the run's methods, into RUN/distribution.csv.",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="For --distribution: embedded (the default), inception, a CLIP judge's name, or a classifier's folder."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="For --distribution: category, prompt, ...; a row for each value as well."),
    ] = None,
    diversity: Annotated[
        str | None,
        typer.Option(metavar="JUDGE", help="How a prompt's images differ over seeds, into RUN/diversity.csv."),
    ] = None,
    config_dir: ConfigDir = None,
    debug: Debug = False,
) -> None:
    """Score a finished run's images again, with the judges of its configuration as they are now; or sets of images."""
    with user_errors(debug):
        add_modules(config_dir)
        if distribution is None and (features is not None or by is not None):
            given = " and ".join(["--features"] * (features is not None) + ["--by"] * (by is not None))
            raise SgoolError(f"{given}: expected --distribution REFERENCE beside it, got none; add it, or leave it out")
        if distribution is None and diversity is None:
            from sgool.cli.console import print_outcome
            from sgool.run.rescore import rescore

            print_outcome(rescore(run))
        else:
            _score_sets(run, distribution, "embedded" if features is None else features, by, diversity)
        say_left_out([run])


def _score_sets(run: Path, distribution: str | None, features: str, by: str | None, diversity: str | None) -> None:
    """Computes the tables of image sets and prints them."""
    from sgool.run.imagesets import score_distribution, score_diversity

    tables = [score_distribution(run, distribution, features, by)] if distribution is not None else []
    tables += [score_diversity(run, diversity)] if diversity is not None else []
    for table in tables:
        columns(table.cells())
        for note in table.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(f"written: {table.path}")


@app.command()
def models() -> None:
    """List embedded models and prompt sets."""
    from sgool.cli.doctor import asset_facts, prompt_facts

    with user_errors(debug=False):
        columns([("MODEL", "WHAT IT IS", "SIZE"), *asset_facts()])
        columns([("PROMPTS", "NUMBER"), *((name, str(number)) for name, number in prompt_facts())])
    typer.echo(
        "Other weights:\n"
        "  sgool fit models=sd14                          Stable Diffusion 1.4 from the hub\n"
        "  sgool fit models=sdxl_turbo models.path=/a/folder    SDXL-Turbo from a folder as diffusers saves it\n"
        "  (also SD 1.x to 3.5, FLUX, PixArt, Sana and Wan: docs/models.md)\n"
        "  sgool fit models.guide='{model: ViT-L-14, pretrained: laion2b_s32b_b82k}'    another guidance CLIP"
    )


@app.command()
def doctor(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OVERRIDES",
            help="With overrides as for fit, such as models=folder models.path=FOLDER: the memory that an update "
            "takes, estimated before any weights load, and what to switch if it does not fit.",
        ),
    ] = None,
    memory: Annotated[
        float | None, typer.Option("--memory", metavar="GIB", help="The card's memory. Default: this machine's.")
    ] = None,
    config_dir: ConfigDir = None,
    debug: Debug = False,
) -> None:
    """Show versions, devices, cores, memory and assets, or the memory that a run will take."""
    from sgool.cli.doctor import asset_facts, card_memory, machine_facts

    if not overrides and memory is None:
        columns(machine_facts())
        columns(asset_facts())
        return
    with user_errors(debug):
        from sgool.run.config import load_config
        from sgool.run.memory import memory_report

        columns(list(memory_report(load_config(overrides or (), config_dir), card_memory(memory)).rows()))
